//! Values as people read them: figures with units, times with zones, tables. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::client::view::Moment;
use crate::error::{Error, ErrorKind};

/// `1.4 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut name = "B";
    for unit in UNITS {
        // Ten times 1024, less what would be rounded up to it.
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        name = unit;
    }
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// `250 580`: digits in groups of three.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 row`, `2 rows`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `340 ms`, `12.4 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn milliseconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
        _ => format!("{} h {} min", milliseconds / 3_600_000, milliseconds % 3_600_000 / 60_000),
    }
}

/// The same, of a span.
pub(crate) fn duration(span: std::time::Duration) -> String {
    milliseconds(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// With a capital at the beginning and a stop at the end.
pub(crate) fn sentence(text: &str) -> String {
    let bare = text.trim().trim_end_matches('.');
    let mut rest = bare.chars();
    let first = rest.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", rest.as_str())
}

/// A time in UTC, and behind it the operator's own clock where that is another.
pub(crate) fn time(moment: Moment, zone: &TimeZone) -> String {
    let utc = moment.0.to_zoned(TimeZone::UTC);
    let local = moment.0.to_zoned(zone.clone());
    let text = utc.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    if local.offset() == utc.offset() {
        return text;
    }
    if local.date() == utc.date() {
        format!("{text} ({})", local.strftime("%H:%M:%S %Z"))
    } else {
        format!("{text} ({})", local.strftime("%Y-%m-%d %H:%M:%S %Z"))
    }
}

/// The same, or a dash.
pub(crate) fn time_or_dash(moment: Option<Moment>, zone: &TimeZone) -> String {
    moment.map_or_else(|| "-".to_owned(), |moment| time(moment, zone))
}

/// A time that was typed. One without a zone is refused, since a wrong guess would recover to the wrong hour.
pub(crate) fn parse_time(text: &str, zone: &TimeZone) -> Result<Timestamp, Error> {
    if let Ok(timestamp) = text.trim().parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let bad = |message: String| Error::new(ErrorKind::InvalidInput, message);
    let Ok(civil) = text.trim().parse::<jiff::civil::DateTime>() else {
        return Err(bad(format!("`{text}` is not a time"))
            .hint("Write a time with its zone, for example 2026-08-01T14:03:06Z."));
    };
    let utc = civil.strftime("%Y-%m-%dT%H:%M:%SZ");
    let hint = match civil.to_zoned(zone.clone()) {
        Ok(local) if local.offset() != jiff::tz::Offset::UTC => {
            format!("Write {} for this host's clock, or {utc} for UTC.", local.strftime("%Y-%m-%dT%H:%M:%S%:z"))
        }
        _ => format!("Write {utc} for UTC."),
    };
    Err(bad(format!("the time `{text}` does not say its zone")).hint(hint))
}

/// The first characters of an id, as far as people compare them.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// `text` on one line of at most `width` characters.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= width {
        return line;
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Lines of columns, each as wide as its widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Table {
        Table { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cell.replace('\n', " ")).into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (index, cell) in row.iter().enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(index) {
                    Some(widest) => *widest = (*widest).max(width),
                    None => widths.push(width),
                }
            }
        }
        let render = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(render).collect()
    }
}

/// Names and what they stand for, one a line; what has nothing to say is left out.
pub(crate) fn facts(facts: &[(&str, String)]) -> Vec<String> {
    let width = facts.iter().filter(|(_, text)| !text.is_empty()).map(|(name, _)| name.len()).max().unwrap_or(0);
    let told = facts.iter().filter(|(_, text)| !text.is_empty());
    told.map(|(name, text)| format!("{name:<width$}  {}", text.replace('\n', " "))).collect()
}

#[cfg(test)]
mod tests {
    use jiff::tz::{Offset, TimeZone};

    use super::{Table, bytes, count, counted, facts, milliseconds, parse_time, shorten, time};
    use crate::client::view::Moment;
    use crate::error::ErrorKind;

    #[test]
    fn figures_have_units() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024 * 1024 - 1, "1.0 MiB")];
        for (given, wanted) in cases {
            assert_eq!(bytes(given), wanted);
        }
        assert_eq!(bytes(5 * 1024 * 1024 * 1024), "5.0 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!((count(0), count(999), count(250_580)), ("0".into(), "999".into(), "250 580".into()));
        assert_eq!((counted(1, "row"), counted(1000, "row")), ("1 row".into(), "1 000 rows".into()));
        let spans = [(0, "0 ms"), (12_449, "12.4 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")];
        for (given, wanted) in spans {
            assert_eq!(milliseconds(given), wanted);
        }
    }

    #[test]
    fn times_are_in_utc_and_on_the_operators_clock() {
        let moment = Moment::parse("2026-08-01T23:30:00Z").unwrap();
        assert_eq!(time(moment, &TimeZone::UTC), "2026-08-01 23:30:00 UTC");
        let east = TimeZone::fixed(Offset::constant(2));
        assert_eq!(time(moment, &east), "2026-08-01 23:30:00 UTC (2026-08-02 01:30:00 +02)");
        let west = TimeZone::fixed(Offset::constant(-3));
        assert_eq!(time(moment, &west), "2026-08-01 23:30:00 UTC (20:30:00 -03)");
    }

    #[test]
    fn a_time_without_a_zone_is_refused_with_both_ways_to_mend_it() {
        let zone = TimeZone::fixed(Offset::constant(2));
        assert_eq!(parse_time("2026-08-01T14:03:06+02:00", &zone).unwrap().to_string(), "2026-08-01T12:03:06Z");
        assert_eq!(parse_time("2026-08-01 14:03:06Z", &zone).unwrap().to_string(), "2026-08-01T14:03:06Z");
        let err = parse_time("2026-08-01 14:03:06", &zone).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert!(err.to_string().contains("2026-08-01T14:03:06+02:00"), "{err}");
        assert!(err.to_string().contains("2026-08-01T14:03:06Z"), "{err}");
        assert!(parse_time("noon", &zone).is_err());
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["é".into(), "1".into()]);
        table.row(["longer".into(), "22".into()]);
        assert_eq!(table.lines(), ["NAME    SIZE", "é       1", "longer  22"]);
        assert_eq!(facts(&[("a", "1".into()), ("none", String::new()), ("bcd", "2".into())]), ["a    1", "bcd  2"]);
        assert_eq!(shorten("DROP \n TABLE  x", 10), "DROP TABL…");
    }
}
