-- The customers and terminals that transactions name: dimensions to join. No foreign keys: see docs/decisions.

DO $$
BEGIN
    IF EXISTS (SELECT FROM unnest(ARRAY['public.customers', 'public.terminals']) AS name
               WHERE to_regclass(name) IS NOT NULL
                 AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(name)
                                 AND attname = CASE name WHEN 'public.customers' THEN 'segment' ELSE 'mcc' END)) THEN
        RAISE EXCEPTION 'public.customers or public.terminals is another program''s table: rename it';
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS public.customers (
    customer_id integer PRIMARY KEY,
    country     char(2) NOT NULL,
    lat         real NOT NULL,
    lon         real NOT NULL,
    segment     varchar(8) NOT NULL,
    cards       smallint NOT NULL,
    opened_on   date NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- An online merchant has no place.
CREATE TABLE IF NOT EXISTS public.terminals (
    terminal_id integer PRIMARY KEY,
    mcc         smallint NOT NULL,
    channel     varchar(8) NOT NULL,
    country     char(2),
    lat         real,
    lon         real,
    created_at  timestamptz NOT NULL DEFAULT now()
);
