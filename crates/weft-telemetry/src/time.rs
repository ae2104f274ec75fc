//! RFC 3339 timestamps in UTC, from the proleptic Gregorian calendar; a few lines instead of a calendar library.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Displays as `2026-11-21T04:06:00.123456Z`. Times before 1970 show as 1970.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = since.subsec_micros();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Counts in 400-year eras that begin on 1 March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::Rfc3339;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn known_moments_format_as_the_calendar_says() {
        let check = |micros: u64, want: &str| {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            assert_eq!(Rfc3339(time).to_string(), want);
        };
        check(0, "1970-01-01T00:00:00.000000Z");
        check(951_782_399_999_999, "2000-02-28T23:59:59.999999Z");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z");
        check(1_709_251_199_000_000, "2024-02-29T23:59:59.000000Z");
        check(1_763_698_262_000_001, "2025-11-21T04:11:02.000001Z");
        check(4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z");
    }
}
