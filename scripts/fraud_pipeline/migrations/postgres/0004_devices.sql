-- The device of an online payment; 0 of others, and of those written before there were devices.
-- Rows are not rewritten: a constant default is kept with the table.

DO $$
BEGIN
    -- ALTER TABLE ... IF NOT EXISTS waits for every open transaction that writes, even if the column exists.
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'public.transactions'::regclass AND attname = 'device_id') THEN
        ALTER TABLE public.transactions ADD COLUMN device_id integer NOT NULL DEFAULT 0;
    END IF;
END
$$;
