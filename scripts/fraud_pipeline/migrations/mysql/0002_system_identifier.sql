-- Of which PostgreSQL cluster the mark's transaction numbers are; unknown until the next run of the labeller.

ALTER TABLE label_progress ADD COLUMN system_identifier BIGINT UNSIGNED NULL;
