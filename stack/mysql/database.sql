-- The business database and the pipeline's user, as the entry point of MySQL's image makes them; the local engine
-- runs this. @database, @owner and @owner_password come first.
SET @statement = CONCAT('CREATE DATABASE `', REPLACE(@database, '`', '``'), '` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci');
PREPARE statement FROM @statement;
EXECUTE statement;
SET @account = CONCAT(QUOTE(@owner), '@''%''');
SET @statement = CONCAT('CREATE USER ', @account, ' IDENTIFIED BY ', QUOTE(@owner_password));
PREPARE statement FROM @statement;
EXECUTE statement;
-- In a grant's database name _ and % are wildcards.
SET @pattern = REPLACE(REPLACE(REPLACE(@database, '`', '``'), '_', '\\_'), '%', '\\%');
SET @statement = CONCAT('GRANT ALL ON `', @pattern, '`.* TO ', @account);
PREPARE statement FROM @statement;
EXECUTE statement;
