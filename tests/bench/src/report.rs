//! What a benchmark says: JSON for programs, a table for people.

use crate::stats::Summary;
use serde::Serialize;
use std::fmt::Write as _;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// What it is compared with; `None`: with the goal alone.
    pub rival: Option<String>,
    /// Unit of both summaries.
    pub unit: &'static str,
    /// This product.
    pub ours: Summary,
    /// The rival.
    pub theirs: Option<Summary>,
    /// Median over median.
    pub ratio: Option<f64>,
    /// 99 % over 99 %.
    pub ratio_p99: Option<f64>,
    /// What is to be reached; empty: the row is only shown.
    pub goal: String,
    /// Whether it was; `None` for a row without a goal.
    pub met: Option<bool>,
    /// What a reader must know beside the figures; empty: nothing.
    pub note: String,
}

impl Row {
    /// A row that stands alone.
    pub fn alone(case: impl Into<String>, unit: &'static str, ours: Summary) -> Row {
        Row {
            case: case.into(),
            rival: None,
            unit,
            ours,
            theirs: None,
            ratio: None,
            ratio_p99: None,
            goal: String::new(),
            met: None,
            note: String::new(),
        }
    }

    /// A row against a rival.
    pub fn against(
        case: impl Into<String>,
        rival: impl Into<String>,
        unit: &'static str,
        ours: Summary,
        theirs: Summary,
    ) -> Row {
        Row {
            rival: Some(rival.into()),
            theirs: Some(theirs),
            ratio: Some(ours.p50 / theirs.p50),
            ratio_p99: Some(ours.p99 / theirs.p99),
            ..Row::alone(case, unit, ours)
        }
    }

    /// Names the goal and whether it was reached.
    pub fn goal(mut self, goal: impl Into<String>, met: bool) -> Row {
        self.goal = goal.into();
        self.met = Some(met);
        self
    }

    /// A goal on the ratio of the medians: "≤ `most`".
    pub fn ratio_at_most(self, most: f64) -> Row {
        let met = self.ratio.is_some_and(|ratio| ratio <= most);
        self.goal(format!("≤ {most:?}"), met)
    }

    /// Adds a remark.
    pub fn note(mut self, note: impl Into<String>) -> Row {
        self.note = note.into();
        self
    }
}

/// A rival that could not be asked, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which one.
    pub rival: String,
    /// What would make it run.
    pub why: String,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Processor, as it names itself.
    pub cpu: String,
    /// Cores of this machine that are online.
    pub cores: usize,
    /// Release of the operating system's kernel.
    pub kernel: String,
    /// Whether a hypervisor stands between.
    pub virtual_machine: bool,
    /// Tasks that wanted to run when the benchmark began, over the last minute: what disturbs it.
    pub load_average: f64,
    /// When, UTC.
    pub date: String,
}

/// A table of cells that are not all figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Its rows, each with a cell for every column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Table {
        Table { title: title.into(), columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    fn text(&self) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.columns).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = format!("  {}\n", self.title);
        for line in lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "    {}", cells.join("  ").trim_end());
        }
        text
    }
}

/// One benchmark's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What could not be.
    pub missing: Vec<Missing>,
    /// Tables beside the rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
}

/// Three figures at any size.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let m = &self.machine;
        let _ =
            writeln!(text, "{}: {}, {} cores, Linux {}, load {}", self.name, m.cpu, m.cores, m.kernel, m.load_average);
        let head = ["case", "rival", "unit", "ours p50", "p99", "theirs p50", "p99", "ratio", "p99", "goal", "met"];
        let mut lines: Vec<Vec<String>> = vec![head.iter().map(ToString::to_string).collect()];
        for row in &self.rows {
            let theirs = |f: fn(&Summary) -> f64| row.theirs.as_ref().map_or(String::new(), |t| figure(f(t)));
            lines.push(vec![
                row.case.clone(),
                row.rival.clone().unwrap_or_default(),
                row.unit.to_owned(),
                figure(row.ours.p50),
                figure(row.ours.p99),
                theirs(|t| t.p50),
                theirs(|t| t.p99),
                row.ratio.map(figure).unwrap_or_default(),
                row.ratio_p99.map(figure).unwrap_or_default(),
                row.goal.clone(),
                row.met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
            ]);
        }
        let widths: Vec<usize> =
            (0..head.len()).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
        // A report of tables alone has no line for the names of the columns.
        for line in lines.iter().filter(|_| !self.rows.is_empty()) {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    // Words to the left, figures to the right.
                    if (3..=8).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                })
                .collect();
            let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
        }
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            let _ = writeln!(text, "  {}: {}", row.case, row.note);
        }
        self.tables.iter().for_each(|table| text.push_str(&table.text()));
        for missing in &self.missing {
            let _ = writeln!(text, "  missing: {}: {}", missing.rival, missing.why);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpu: "X".to_owned(),
            cores: 2,
            kernel: "6".to_owned(),
            virtual_machine: true,
            load_average: 0.5,
            date: String::new(),
        }
    }

    #[test]
    fn json_has_the_fields_that_are_promised() {
        let row =
            Row::against("hand-off", "r 1", "ns", Summary::single(50.0), Summary::single(100.0)).ratio_at_most(0.6);
        let report =
            Report { name: "ring", machine: machine(), rows: vec![row], missing: Vec::new(), tables: Vec::new() };
        let json = serde_json::to_value(&report).unwrap();
        let row = &json["rows"][0];
        assert_eq!((json["name"].as_str(), row["rival"].as_str()), (Some("ring"), Some("r 1")));
        assert_eq!((row["ratio"].as_f64(), row["goal"].as_str()), (Some(0.5), Some("≤ 0.6")));
        assert_eq!((row["met"].as_bool(), row["ours"]["p50"].as_f64()), (Some(true), Some(50.0)));
        assert!(json["machine"].is_object() && json["missing"].is_array());
    }

    #[test]
    fn a_goal_that_is_missed_is_shown_as_missed() {
        let row =
            Row::against("hand-off", "r 1", "ns", Summary::single(70.0), Summary::single(100.0)).ratio_at_most(0.6);
        assert_eq!(row.met, Some(false));
        let report =
            Report { name: "ring", machine: machine(), rows: vec![row], missing: Vec::new(), tables: Vec::new() };
        assert!(report.table().contains("NO"), "{}", report.table());
    }
}
