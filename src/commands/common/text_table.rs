//! Tables as plain text or Markdown.

use std::iter::once;

/// A table; the first cell of each row is its name.
#[derive(Debug)]
pub(crate) struct TextTable {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// The columns of texts, which are left-aligned.
    texts: Vec<usize>,
}

impl TextTable {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { head: head.map(str::to_owned).into(), rows: Vec::new(), texts: vec![0] }
    }

    /// Left-aligns one more column.
    pub(crate) fn with_text_in(mut self, column: usize) -> Self {
        self.texts.push(column);
        self
    }

    /// Adds a row of as many cells as the head has.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len());
        self.rows.push(cells.into());
    }

    /// Formats columns as plain text: those of texts, such as the first, left-aligned, the others
    /// right-aligned.
    pub(crate) fn text(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|n| once(&self.head).chain(&self.rows).map(|row| row[n].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(n, (cell, &width))| match self.texts.contains(&n) {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        once(&self.head).chain(&self.rows).map(line).collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = "|---".to_owned() + &"|---:".repeat(self.head.len() - 1) + "|\n";
        line(&self.head) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = TextTable::new(["", "µs", "MB"]);
        table.row(["client".to_owned(), "1.25".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(), "          µs  MB\nclient  1.25   7\n");
        assert_eq!(table.markdown(), "|  | µs | MB |\n|---|---:|---:|\n| client | 1.25 | 7 |\n");
    }
}
