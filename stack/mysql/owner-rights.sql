-- What the pipeline's own user may do besides all in its database: read changes. @owner comes first.
SET @statement = CONCAT('GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO ', QUOTE(@owner), '@''%''');
PREPARE statement FROM @statement;
EXECUTE statement;
