-- What consumers of the change stream, and labels in MySQL, rely on.

-- As MySQL's ON UPDATE CURRENT_TIMESTAMP: it moves with a change, unless the change says otherwise.
CREATE OR REPLACE FUNCTION sim.move_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

DO $$
BEGIN
    -- The strongest lock comes first, and tables in the order in which batches are written: no deadlock.
    -- MySQL's ids are unsigned. NOT VALID reads no row: those that are there already the labeller sets aside.
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = 'public.transactions'::regclass AND conname = 'transaction_id_not_negative') THEN
        ALTER TABLE public.transactions
            ADD CONSTRAINT transaction_id_not_negative CHECK (transaction_id >= 0) NOT VALID;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = 'public.transactions'::regclass AND tgname = 'move_updated_at') THEN
        CREATE TRIGGER move_updated_at BEFORE UPDATE ON public.transactions FOR EACH ROW
            WHEN (OLD IS DISTINCT FROM NEW AND OLD.updated_at IS NOT DISTINCT FROM NEW.updated_at)
            EXECUTE FUNCTION sim.move_updated_at();
    END IF;
    -- What MySQL's DATETIME holds.
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = 'sim.ground_truth'::regclass AND conname = 'reported_at_in_mysql') THEN
        ALTER TABLE sim.ground_truth ADD CONSTRAINT reported_at_in_mysql
            CHECK (reported_at >= '1000-01-01 UTC' AND reported_at < '9999-12-31 UTC') NOT VALID;
    END IF;
END
$$;
