//! The text of a dump tool, cut into files: see `crate::fuzz`.

use super::manifest::{parse_end, parse_head};
use super::split::{HeadFacts, Splitter};
use crate::datastore::xbstream::StreamTap;
use crate::domain::datastore::Datastore;
use crate::error::Error;
use crate::testing::fuzz::{Dice, Target, mutate};

/// A dump, in the pieces it is put together of.
const PIECES: [&str; 14] = [
    "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\n\n/*!40101 SET NAMES utf8mb4 */;\n",
    "/*!50606 SET GLOBAL INNODB_STATS_AUTO_RECALC=OFF */;\n",
    "--\n-- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000007', MASTER_LOG_POS=4711;\n\n",
    "--\n-- Current Database: x\n--\n\nCREATE DATABASE `a``b`;\n\nUSE `a``b`;\n\n",
    "--\n-- Table structure for table x\n--\n\nDROP TABLE IF EXISTS `t`;\n/*!40101 SET @saved = 1 */;\nCREATE TABLE `t` (\n  `a` int\n);\n\n",
    "--\n-- Dumping data for table x\n--\n\n/*!40000 ALTER TABLE `t` DISABLE KEYS */;\nINSERT INTO `t` (`a`) VALUES (1,'-- Dump completed'),\n('\\'; -- x',2);\n",
    "--\n-- Current Database: x\n--\n\nCREATE DATABASE `mysql`;\n\nUSE `mysql`;\n\n",
    "--\n-- Table structure for table x\n--\n\nDROP TABLE IF EXISTS `global_priv`;\nCREATE TABLE `global_priv` (\n  `a` int\n);\n\n",
    "--\n-- Dumping data for table x\n--\n\nINSERT INTO `global_priv` (`a`) VALUES ('x');\n",
    "--\n-- Temporary table structure for view `v`\n--\n\nSET @saved = 1;\n/*!50001 CREATE VIEW `v` AS SELECT 1 AS `a`*/;\n",
    "--\n-- Final view structure for view `v`\n--\n\n/*!50001 DROP VIEW IF EXISTS `v`*/;\n/*!50001 CREATE VIEW `v` AS select 1 AS `a` */;\n",
    "--\n-- Sequence structure for `s`\n--\n\nDROP SEQUENCE IF EXISTS `s`;\nCREATE SEQUENCE `s` start with 1;\n",
    "/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n",
    "-- Dump completed on 2026-11-21\n",
];
const SMALL_FILES: [&str; 2] = [
    "{\"format\":1,\"flavour\":\"mariadb\",\"server_version\":\"v\",\"tool\":\"t\",\"tool_version\":\"tv\",\"position\":\"binlog.000007:4711\",\"engines\":[],\"warnings\":[]}\n",
    "{\"format\":1,\"entries\":2,\"rows\":3,\"code\":{\"routines\":0,\"triggers\":0,\"events\":0},\"read_until\":\"binlog.000007:4711\",\"warnings\":[]}\n",
];

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    vec![Box::new(DumpText)]
}

/// The cutting of the text, and the two small files of a dump.
struct DumpText;

impl Target for DumpText {
    fn name(&self) -> &'static str {
        "dump-text"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        if dice.one_in(8) {
            let mut text = dice.pick(&SMALL_FILES).as_bytes().to_vec();
            mutate::change(dice, &mut text, SMALL_FILES[0].as_bytes());
            return text;
        }
        let mut pieces = PIECES.to_vec();
        for _ in 0..dice.below(3) {
            mutate::shuffle(dice, &mut pieces, &PIECES);
        }
        let mut text = pieces.concat().into_bytes();
        if !dice.one_in(3) {
            mutate::change(dice, &mut text, b"';`\"\\-- /*!*/\n--\n");
        }
        text
    }

    fn read(&mut self, input: &[u8]) {
        let _ = (parse_head(input), parse_end(input));
        let whole = split(input, usize::MAX);
        let in_pieces = split(input, 1 + input.len() % 61);
        let errors = (whole.as_ref().err(), in_pieces.as_ref().err());
        assert!(whole == in_pieces, "it depends on how the text comes: {errors:?}");
        let Ok(stream) = whole else { return };
        let mut tap = StreamTap::new(&[]);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            rest = &rest[tap.push(rest).unwrap().bytes..];
        }
        tap.finish().unwrap();
    }

    /// The text, the files of it and two streams.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (4 << 20) + 64 * input_bytes
    }
}

fn split(text: &[u8], piece_bytes: usize) -> Result<Vec<u8>, String> {
    let mut splitter = Splitter::new(HeadFacts {
        flavour: Datastore::Mariadb,
        server_version: "v".to_owned(),
        tool: "t".to_owned(),
        tool_version: "tv".to_owned(),
        engines: Vec::new(),
        warnings: Vec::new(),
    });
    let pushed = text.chunks(piece_bytes).try_for_each(|piece| splitter.push(piece));
    pushed.and_then(|()| splitter.finish()).map_err(|err: Error| err.to_string())?;
    splitter.members().finish();
    let mut stream = Vec::new();
    splitter.members().take(&mut stream);
    Ok(stream)
}
