-- Airbyte's account in MySQL: reads the business database and its changes, and nothing else.
--
-- Both engines run this with new data. On a server of your own, as an administrator:
--
--   (echo "SET @reader = 'airbyte', @password = 'SECRET', @database = 'data';"
--    cat stack/mysql/replication-account.sql) | mysql --host HOST --user root --password
SET @account = CONCAT(QUOTE(@reader), '@''%''');
SET @statement = CONCAT('CREATE USER ', @account, ' IDENTIFIED BY ', QUOTE(@password));
PREPARE statement FROM @statement;
EXECUTE statement;
-- In a grant's database name _ and % are wildcards.
SET @pattern = REPLACE(REPLACE(REPLACE(@database, '`', '``'), '_', '\\_'), '%', '\\%');
SET @statement = CONCAT('GRANT SELECT ON `', @pattern, '`.* TO ', @account);
PREPARE statement FROM @statement;
EXECUTE statement;
-- Airbyte's MySQL source asks for RELOAD and SHOW DATABASES too.
SET @rights = 'RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT';
SET @statement = CONCAT('GRANT ', @rights, ' ON *.* TO ', @account);
PREPARE statement FROM @statement;
EXECUTE statement;
