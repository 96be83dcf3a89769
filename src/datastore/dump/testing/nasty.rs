//! A database made of what dumps get wrong.

/// A schema's name that looks like a part of a dump.
pub(crate) const ODD: &str = "`a.b``c\n-- Table structure for table ``x``\nd`";

/// For both servers, one statement each.
pub(crate) const COMMON: &[&str] = &[
    "SET SESSION sql_mode = ''",
    "CREATE DATABASE `a.b``c\n-- Table structure for table ``x``\nd` CHARACTER SET latin1",
    "CREATE DATABASE plain CHARACTER SET utf8mb4",
    "CREATE DATABASE `größe 數` CHARACTER SET utf8mb4",
    // Names, defaults and comments that look like the dump's own.
    "CREATE TABLE `a.b``c\n-- Table structure for table ``x``\nd`.`o'dd \"na``me\n-- Current Database: ``y``\n;` (
        `id;` INT AUTO_INCREMENT PRIMARY KEY,
        `co\nl` VARCHAR(50) DEFAULT 'a\n-- Table structure for table `z`\nb' COMMENT 'it''s\n-- Dumping data for table `q`\n'
     ) COMMENT = 'x\n-- Dump completed\n' DEFAULT CHARSET utf8mb4",
    "INSERT INTO `a.b``c\n-- Table structure for table ``x``\nd`.`o'dd \"na``me\n-- Current Database: ``y``\n;` (`co\nl`) VALUES
        ('a\n-- Table structure for table `hax`\n'), ('b\\\\'), ('''),('), ('\\0\\Z\\r\\n;😀'), (NULL), (''), ('\\\\'''), ('*/ -- # /* `'),
        ('\n-- Dump completed on 2026-01-01\n'), ('\nUSE `mysql`;\nDROP TABLE user;\n'), (DEFAULT)",
    "CREATE TABLE `größe 數`.`täŁble`(`selŁect` INT PRIMARY KEY, `key` TEXT, FULLTEXT KEY `wörter` (`key`)) DEFAULT CHARSET utf8mb4",
    "USE plain",
    "CREATE TABLE `types` (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        bits BIT(13), tiny TINYINT(1), dec_ DECIMAL(65, 30), dou DOUBLE, flo FLOAT, y YEAR,
        d DATE NOT NULL, dt DATETIME(6), ts TIMESTAMP(6) NULL DEFAULT NULL, t TIME(3),
        e ENUM('', 'a,b', 'c''d', 'ü'), s SET('x', 'y', 'z'),
        c CHAR(10) CHARACTER SET latin1, vb VARBINARY(300), bl LONGBLOB, tx LONGTEXT CHARACTER SET utf8mb4,
        bin_ BINARY(4), g GEOMETRY, p POINT NOT NULL, j JSON,
        u VARCHAR(20) CHARACTER SET utf16, lo VARCHAR(20) CHARACTER SET latin2,
        UNIQUE KEY (vb), KEY (tx(20)), SPATIAL KEY (p)
     ) AUTO_INCREMENT = 5000000000",
    "INSERT INTO types VALUES
        (12345678901, b'1010101010101', -1, -99999999999999999999999999999999999.999999999999999999999999999999, 1.7976931348623157e308,
         3.25, 1901, '0000-00-00', '0000-00-00 00:00:00', '1970-01-01 00:00:01.000001', '-838:59:59', '', 'x,z', x'E9FF80', x'00',
         x'000a0d1a275c22', 'a\r\nb\\0\\Z\\\\''\"`😀', 'ab', ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))'), POINT(1, 2), '{\"a\": \"b\\\\n😀\"}', '😀ü', 'ž'),
        (1, 0, NULL, 0, 2.2250738585072014e-308, -0.5, 0, '2024-02-31', '9999-12-31 23:59:59.999999', NULL, NULL, NULL, '', '', '', '', '', '',
         NULL, POINT(-1e300, 1e-300), NULL, '', ''),
        (2, NULL, 127, 0.1, 0.1, 16384, 2155, '1000-01-01', NULL, '2038-01-19 03:14:07.999999', '00:00:00.001', 'c''d', 'x,y,z', NULL, x'ffff', NULL, NULL, NULL,
         NULL, POINT(0, 0), '[]', NULL, NULL)",
    // Every byte, and rows that are longer than one statement of the tool.
    "INSERT INTO types (vb, d, p, bl) SELECT UNHEX(HEX(n)), '2000-01-01', POINT(n, 1), REPEAT(CHAR(n USING binary), 5000) FROM
        (SELECT a.n + 16 * b.n AS n FROM
         (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8
          UNION SELECT 9 UNION SELECT 10 UNION SELECT 11 UNION SELECT 12 UNION SELECT 13 UNION SELECT 14 UNION SELECT 15) a,
         (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8
          UNION SELECT 9 UNION SELECT 10 UNION SELECT 11 UNION SELECT 12 UNION SELECT 13 UNION SELECT 14 UNION SELECT 15) b) x WHERE n > 15",
    "INSERT INTO types (id, d, p, tx) VALUES (77, '2000-01-01', POINT(0, 0), REPEAT('\\'),(-- x\n;\\\\', 300000))",
    "CREATE TABLE floats (`f,1` FLOAT)",
    "INSERT INTO floats VALUES (16777216)",
    "CREATE TABLE zero (id INT AUTO_INCREMENT PRIMARY KEY, x INT)",
    "INSERT INTO zero VALUES (NULL, 1)",
    "UPDATE zero SET id = 0",
    "CREATE TABLE gen (a INT, b INT AS (a * 2) STORED, c INT AS (a + 1) VIRTUAL, d VARCHAR(20) AS (CONCAT('x;', a)) VIRTUAL, KEY (c))",
    "INSERT INTO gen (a) VALUES (1), (NULL), (-5)",
    "CREATE TABLE checked (a INT CHECK (a > 0), b VARCHAR(9) DEFAULT 'it''s', CONSTRAINT `c'k` CHECK (b <> ';'))",
    "INSERT INTO checked (a) VALUES (1)",
    "CREATE TABLE `empty` (a INT)",
    "CREATE TABLE many (a INT, b INT)",
    "INSERT INTO many VALUES (1, 1), (1, 1), (1, 1), (NULL, NULL)",
    "CREATE TABLE parts (id INT NOT NULL, d DATE NOT NULL, PRIMARY KEY (id, d)) PARTITION BY RANGE (YEAR(d))
        SUBPARTITION BY HASH (id) SUBPARTITIONS 2 (PARTITION `p;1` VALUES LESS THAN (2000) COMMENT = 'it''s; -- x', PARTITION p2 VALUES LESS THAN MAXVALUE)",
    "INSERT INTO parts VALUES (1, '1999-01-01'), (2, '2024-01-01')",
    "CREATE TABLE compressed (a INT PRIMARY KEY, b TEXT) ROW_FORMAT = COMPRESSED KEY_BLOCK_SIZE = 4",
    "INSERT INTO compressed VALUES (1, REPEAT('x', 5000))",
    // Keys that point at each other, at themselves, and at tables that come later.
    "CREATE TABLE chicken (id INT PRIMARY KEY, egg INT)",
    "CREATE TABLE egg (id INT PRIMARY KEY, chicken INT, CONSTRAINT `fk;1` FOREIGN KEY (chicken) REFERENCES chicken (id) ON DELETE CASCADE)",
    "INSERT INTO chicken VALUES (1, 1), (2, NULL)",
    "INSERT INTO egg VALUES (1, 1)",
    "ALTER TABLE chicken ADD FOREIGN KEY (egg) REFERENCES egg (id) ON DELETE SET NULL",
    "CREATE TABLE a_child (id INT PRIMARY KEY, parent INT, up INT, FOREIGN KEY (parent) REFERENCES chicken (id), FOREIGN KEY (up) REFERENCES a_child (id))",
    "INSERT INTO a_child VALUES (2, 1, NULL), (1, 2, 2)",
    // Other engines.
    "CREATE TABLE my (a INT AUTO_INCREMENT PRIMARY KEY, b VARCHAR(10), KEY (b)) ENGINE = MyISAM",
    "INSERT INTO my (b) VALUES ('x'), ('y')",
    "CREATE TABLE mem (a INT) ENGINE = MEMORY",
    "INSERT INTO mem VALUES (1)",
    "CREATE TABLE merged (a INT AUTO_INCREMENT PRIMARY KEY, b VARCHAR(10), KEY (b)) ENGINE = MERGE UNION = (my)",
    "CREATE TABLE csv (a INT NOT NULL, b VARCHAR(20) NOT NULL) ENGINE = CSV",
    "INSERT INTO csv VALUES (1, 'a,\"b;\n')",
    "CREATE TABLE archive (a INT, b BLOB) ENGINE = ARCHIVE",
    "INSERT INTO archive VALUES (1, x'00ff')",
    // Code that looks like a dump, in every mode.
    "CREATE FUNCTION f(a INT) RETURNS INT DETERMINISTIC COMMENT 'it''s; -- x' RETURN a + 1",
    "CREATE PROCEDURE `p;1`(IN `x;y` INT, OUT z TEXT CHARACTER SET utf8mb4)\nBEGIN\n-- Dumping data for table `z`\n/* Dump; */ # it's\n\
        SELECT 'a;;b', \";;\", ';\n-- Dump completed\n';\r\n  SET z = '😀\\\\';\nDELETE FROM my WHERE a < 0; -- it's;;\nEND",
    "CREATE DEFINER = `no'body`@`%` PROCEDURE orphaned() SQL SECURITY INVOKER SELECT 1",
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'",
    "CREATE PROCEDURE modes() BEGIN SELECT 'a' || '\\' AS \"q;\"; SELECT 'b' || 'c'; END",
    "CREATE TRIGGER moded AFTER UPDATE ON zero FOR EACH ROW SET @x = 'a\\' || \"NEW\".\"x\"",
    "SET SESSION sql_mode = ''",
    "CREATE TABLE fired (what VARCHAR(50))",
    "CREATE TRIGGER first_ BEFORE INSERT ON zero FOR EACH ROW BEGIN\n-- Table structure for table `z`\n/* it's; */ # x';;\nINSERT INTO fired VALUES ('first;;');\nEND",
    "CREATE TRIGGER before_first BEFORE INSERT ON zero FOR EACH ROW PRECEDES first_ INSERT INTO fired VALUES ('zeroth')",
    "CREATE TRIGGER after_first BEFORE INSERT ON zero FOR EACH ROW FOLLOWS first_ INSERT INTO fired VALUES ('second')",
    "CREATE TRIGGER on_my BEFORE INSERT ON my FOR EACH ROW SET NEW.b = 'no'",
    "CREATE VIEW v1 AS SELECT id, f(x) AS x, 'lit\n-- Table structure for table `z`\neral;' AS `s\ny` FROM zero",
    "CREATE ALGORITHM = MERGE DEFINER = `no'body`@`%` SQL SECURITY INVOKER VIEW a0 AS SELECT * FROM v1 WHERE id >= 0 WITH CASCADED CHECK OPTION",
    "CREATE VIEW `größe 數`.`vi;ew` AS SELECT v.*, t.`selŁect` FROM plain.a0 v, `größe 數`.`täŁble` t",
    "CREATE DEFINER = `no'body`@`%` VIEW nobodys AS SELECT id FROM zero",
    "CREATE TABLE goes (a INT)",
    "CREATE VIEW broken AS SELECT * FROM goes",
    "DROP TABLE goes",
    "CREATE EVENT off_ ON SCHEDULE EVERY 1 HOUR DISABLE DO SET @a = ';;'",
    "CREATE EVENT on_ ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' ENDS '2031-01-01 00:00:00' ON COMPLETION PRESERVE ENABLE COMMENT 'it''s;'\n\
        DO BEGIN\n-- Dumping events\nDELETE FROM my WHERE a < -1; END",
    "CREATE EVENT once ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL 3 SECOND DO SET @a = 1",
    // A table somebody keeps among the server's.
    "CREATE TABLE mysql.ours (a INT)",
    "INSERT INTO mysql.ours VALUES (1)",
    // Accounts.
    "CREATE USER 'o''x'@'%.example.com' IDENTIFIED BY 'geheim;''\"\\\\😀'",
    "CREATE USER app@localhost IDENTIFIED BY 'x' REQUIRE SSL WITH MAX_USER_CONNECTIONS 3 PASSWORD EXPIRE INTERVAL 90 DAY",
    "CREATE USER locked@`10.0.0.0/255.0.0.0` IDENTIFIED BY 'y' ACCOUNT LOCK",
    "CREATE ROLE auditor",
    "GRANT SELECT ON plain.* TO auditor",
    "GRANT auditor TO app@localhost",
    "GRANT SELECT (a), UPDATE (a) ON plain.my TO app@localhost",
    "GRANT INSERT ON plain.zero TO app@localhost WITH GRANT OPTION",
    "GRANT EXECUTE ON FUNCTION plain.f TO app@localhost",
    "GRANT CREATE, DROP ON `a\\_b%`.* TO 'o''x'@'%.example.com'",
    "GRANT RELOAD, PROCESS ON *.* TO locked@`10.0.0.0/255.0.0.0`",
    "CREATE SERVER afar FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'a''b', DATABASE 'c')",
];

pub(crate) const MARIADB_FIRST: &[&str] = &["INSTALL SONAME 'ha_archive'"];

pub(crate) const MARIADB: &[&str] = &[
    "USE plain",
    "CREATE TABLE aria (a INT PRIMARY KEY) ENGINE = Aria TRANSACTIONAL = 1",
    "INSERT INTO aria VALUES (1), (2)",
    "CREATE SEQUENCE zz_seq START WITH 10 INCREMENT BY 5 CACHE 0 CYCLE MAXVALUE 10000",
    "DO NEXTVAL(zz_seq), NEXTVAL(zz_seq)",
    "CREATE SEQUENCE `größe 數`.`zz;seq`",
    "CREATE TABLE a_default (id INT DEFAULT NEXTVAL(`größe 數`.`zz;seq`), u UUID, i INET6, x INT INVISIBLE DEFAULT 7, z TEXT COMPRESSED)",
    "INSERT INTO a_default (u, i, x, z) VALUES (UUID(), '::1', 8, REPEAT('z', 999)), (NULL, NULL, DEFAULT, 'y')",
    "CREATE TABLE versioned (id INT PRIMARY KEY, x INT) WITH SYSTEM VERSIONING",
    "INSERT INTO versioned VALUES (1, 1), (2, 1)",
    "UPDATE versioned SET x = 2 WHERE id = 1",
    "DELETE FROM versioned",
    "INSERT INTO versioned VALUES (3, 3)",
    "CREATE TABLE versioned2 (id INT PRIMARY KEY, b TIMESTAMP(6) GENERATED ALWAYS AS ROW START, e TIMESTAMP(6) GENERATED ALWAYS AS ROW END,
        PERIOD FOR SYSTEM_TIME (b, e)) WITH SYSTEM VERSIONING PARTITION BY SYSTEM_TIME (PARTITION p0 HISTORY, PARTITION pn CURRENT)",
    "INSERT INTO versioned2 (id) VALUES (1)",
    "UPDATE versioned2 SET id = 2",
    "CREATE TABLE periods (id INT, b DATE, e DATE, PERIOD FOR app (b, e), PRIMARY KEY (id, app WITHOUT OVERLAPS))",
    "INSERT INTO periods VALUES (1, '2000-01-01', '2001-01-01')",
    "SET SESSION sql_mode = 'ORACLE'",
    "CREATE PACKAGE pack AS PROCEDURE p1; FUNCTION f1 RETURN INT; END",
    "CREATE PACKAGE BODY pack AS PROCEDURE p1 AS BEGIN SELECT 'a;;'; END; FUNCTION f1 RETURN INT AS BEGIN RETURN 1; END; END",
    "SET SESSION sql_mode = ''",
    "CREATE AGGREGATE FUNCTION agg(x INT) RETURNS INT DETERMINISTIC BEGIN DECLARE s INT DEFAULT 0; DECLARE CONTINUE HANDLER FOR NOT FOUND RETURN s;
        LOOP FETCH GROUP NEXT ROW; SET s = s + x; END LOOP; END",
    "CREATE EVENT elsewhere ON SCHEDULE EVERY 1 HOUR DISABLE ON SLAVE DO SET @a = 1",
    "CREATE TRIGGER on_versioned BEFORE INSERT ON versioned FOR EACH ROW SET NEW.x = 99",
    "GRANT PROXY ON app@localhost TO 'o''x'@'%.example.com'",
    "SET DEFAULT ROLE auditor FOR app@localhost",
];

pub(crate) const MYSQL: &[&str] = &[
    "USE plain",
    "SET SESSION sql_generate_invisible_primary_key = ON",
    "CREATE TABLE hidden_key (a INT)",
    "INSERT INTO hidden_key VALUES (7), (8)",
    "SET SESSION sql_generate_invisible_primary_key = OFF",
    "CREATE TABLE functional (a JSON, x INT DEFAULT (7) INVISIBLE, KEY fi ((CAST(a->>'$.n' AS UNSIGNED))), KEY d (x DESC), SRID_ GEOMETRY NOT NULL SRID 4326)",
    "INSERT INTO functional (a, x, SRID_) VALUES ('{\"n\": 1}', 9, ST_SRID(POINT(1, 2), 4326)), (NULL, DEFAULT, ST_SRID(POINT(3, 4), 4326))",
    "CREATE TABLE enforced (a INT, CONSTRAINT ne CHECK (a > 0) NOT ENFORCED)",
    "INSERT INTO enforced VALUES (-1)",
    "SET SESSION restrict_fk_on_non_standard_key = OFF",
    "CREATE TABLE loose_parent (id INT, x INT, KEY (x))",
    "CREATE TABLE loose_child (x INT, FOREIGN KEY (x) REFERENCES loose_parent (x))",
    "CREATE EVENT elsewhere ON SCHEDULE EVERY 1 HOUR DISABLE ON REPLICA DO SET @a = 1",
    "CREATE USER mfa@localhost IDENTIFIED WITH caching_sha2_password BY 'z' ATTRIBUTE '{\"it\\'s\": \"x\"}'",
    "ALTER USER mfa@localhost IDENTIFIED BY 'zz' RETAIN CURRENT PASSWORD",
    "SET DEFAULT ROLE auditor TO app@localhost",
    "GRANT BACKUP_ADMIN ON *.* TO mfa@localhost",
    "CREATE SPATIAL REFERENCE SYSTEM 990001 NAME 'ours' DEFINITION 'GEOGCS[\"x\",DATUM[\"y\",SPHEROID[\"z\",6378137,298.257223563]],PRIMEM[\"Greenwich\",0],UNIT[\"degree\",0.017453292519943278],AXIS[\"Lat\",NORTH],AXIS[\"Lon\",EAST]]'",
];
