//! What was measured: samples by measure and column, and the figure that stands for them.
//!
//! In: one number for each visit, or the times of all round trips of a visit. Out: figures, spreads, ratios. Not here:
//! how they are shown (`report`).

/// Everything measured, in the order in which measures and columns came.
pub(crate) struct Samples {
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

/// One measure of all columns.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    cells: Vec<Cell>,
}

/// One measure of one column.
#[derive(Clone, Default)]
pub(crate) struct Cell {
    /// One for each visit.
    pub(crate) samples: Vec<f64>,
    /// What stands for all of them, when it is not their median.
    overall: Option<f64>,
}

/// A percentile of round trips.
struct Percentile {
    name: &'static str,
    percent: usize,
}

const PERCENTILES: [Percentile; 2] = [
    Percentile {
        name: "round trip 64 B p50, us",
        percent: 50,
    },
    Percentile {
        name: "round trip 64 B p99, us",
        percent: 99,
    },
];

/// All round trips of each column, in nanoseconds.
pub(crate) struct RoundTrips(Vec<(&'static str, Vec<u32>)>);

impl Samples {
    pub(crate) fn new(columns: impl Iterator<Item = &'static str>) -> Self {
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, column: &str, measure: &'static str, value: f64) {
        self.cell(column, measure).samples.push(value);
    }

    fn cell(&mut self, column: &str, measure: &'static str) -> &mut Cell {
        let known = self.rows.iter().position(|row| row.name == measure);
        let row = known.unwrap_or_else(|| {
            self.rows.push(Row {
                name: measure,
                cells: vec![Cell::default(); self.columns.len()],
            });
            self.rows.len() - 1
        });
        let column = self.columns.iter().position(|name| *name == column);
        &mut self.rows[row].cells[column.expect("samples belong to a column")]
    }

    pub(crate) fn columns(&self) -> &[&'static str] {
        &self.columns
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// A measure's cell of a column, by their names.
    pub(crate) fn find(&self, measure: &str, column: &str) -> Option<&Cell> {
        let row = self.rows.iter().find(|row| row.name == measure)?;
        row.cell(self.columns.iter().position(|name| *name == column)?)
    }

    /// Ratio of a column's figure to the one of `base`; none to itself.
    pub(crate) fn ratio(&self, measure: &str, column: &str, base: &str) -> Option<f64> {
        if column == base {
            return None;
        }
        Some(self.find(measure, column)?.figure()? / self.find(measure, base)?.figure()?)
    }
}

impl Row {
    pub(crate) fn cell(&self, column: usize) -> Option<&Cell> {
        self.cells.get(column)
    }
}

impl Cell {
    /// The number that stands for the cell: the median of its visits, and for round trips the percentile of all of
    /// them, which a visit that fell into another mode of the scheduler moves by its share and no more.
    pub(crate) fn figure(&self) -> Option<f64> {
        self.overall.or_else(|| median(&self.samples))
    }

    /// Lowest and highest visit; none when there was only one.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        if self.samples.len() < 2 {
            return None;
        }
        let low = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.samples.iter().copied().fold(0.0, f64::max);
        Some((low, high))
    }
}

impl RoundTrips {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one visit: its own percentiles to `samples`, its times to all others of the column.
    pub(crate) fn add(&mut self, samples: &mut Samples, column: &'static str, times: Vec<u32>) {
        let known = self.0.iter().position(|(name, _)| *name == column);
        let all = known.unwrap_or_else(|| {
            self.0.push((column, Vec::new()));
            self.0.len() - 1
        });
        let all = &mut self.0[all].1;
        all.extend_from_slice(&times);
        all.sort_unstable();
        let mut visit = times;
        visit.sort_unstable();
        for Percentile { name, percent } in PERCENTILES {
            let cell = samples.cell(column, name);
            cell.samples.extend(percentile_us(&visit, percent));
            cell.overall = percentile_us(all, percent);
        }
    }
}

/// In microseconds, of sorted nanoseconds.
fn percentile_us(sorted: &[u32], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(f64::from(sorted[last * percent / 100]) / 1e3)
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::{RoundTrips, Samples, median};

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn percentiles_of_round_trips_are_over_all_of_them_and_the_spread_over_visits() {
        let mut samples = Samples::new(["weft"].into_iter());
        let mut trips = RoundTrips::new();
        // Two modes: nine tenths of all trips in the lower one, in one visit of two.
        trips.add(&mut samples, "weft", vec![20_000; 900]);
        trips.add(&mut samples, "weft", vec![40_000; 100]);
        let p50 = samples.find("round trip 64 B p50, us", "weft").unwrap();
        assert_eq!(p50.figure(), Some(20.0));
        assert_eq!(p50.spread(), Some((20.0, 40.0)));
        let p99 = samples.find("round trip 64 B p99, us", "weft").unwrap();
        assert_eq!(p99.figure(), Some(40.0));
    }
}
