//! The web page of a process: one HTML document without scripts, made on the server. Pure.

use maud::{DOCTYPE, Markup, html};

/// How often a browser asks again, in seconds.
const REFRESH_S: u32 = 10;

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em;color:#222}\
    table{border-collapse:collapse;margin:.5em 0 2em}\
    th,td{border:1px solid #ccc;padding:.25em .6em;text-align:left;vertical-align:top}\
    th{background:#f3f3f3}h1{font-size:1.4em}h2{font-size:1.1em}\
    .notice{background:#fff3cd;padding:.5em 1em}";

/// What a page shows, from the top.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Of the document and above everything.
    pub title: String,
    /// What whoever looks must know.
    pub notices: Vec<String>,
    /// Names and values.
    pub facts: Vec<(&'static str, String)>,
    /// The rest.
    pub tables: Vec<Table>,
}

/// A table with a heading.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Above it.
    pub heading: String,
    /// The names of the columns.
    pub columns: Vec<&'static str>,
    /// The rows, with a cell for every column.
    pub rows: Vec<Vec<String>>,
}

impl Page {
    /// The document.
    pub fn render(&self) -> String {
        let document = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="refresh" content=(REFRESH_S);
                    title { (self.title) }
                    style { (STYLE) }
                }
                body {
                    h1 { (self.title) }
                    @for notice in &self.notices { p.notice { (notice) } }
                    table { tbody {
                        @for (name, value) in &self.facts { tr { th { (name) } td { (value) } } }
                    } }
                    @for table in &self.tables { (table.markup()) }
                    p { a href="/metrics" { "metrics" } }
                }
            }
        };
        document.into_string()
    }
}

impl Table {
    fn markup(&self) -> Markup {
        html! {
            h2 { (self.heading) }
            @if self.rows.is_empty() { p { "none" } }
            @else {
                table {
                    thead { tr { @for column in &self.columns { th { (column) } } } }
                    tbody {
                        @for row in &self.rows { tr { @for cell in row { td { (cell) } } } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_and_nothing_is_markup_that_was_text() {
        let page = Page {
            title: "miner t01000".into(),
            notices: vec!["NULL PROVER".into()],
            facts: vec![("version", "1.2.3".into())],
            tables: vec![
                Table {
                    heading: "failures".into(),
                    columns: vec!["sector", "reason"],
                    rows: vec![vec!["7".into(), "<script>alert(1)</script> & more".into()]],
                },
                Table { heading: "agents".into(), columns: vec!["agent"], rows: vec![] },
            ],
        }
        .render();
        for part in [
            "<title>miner t01000</title>",
            "NULL PROVER",
            "<th>version</th><td>1.2.3</td>",
            "<td>7</td><td>&lt;script&gt;alert(1)&lt;/script&gt; &amp; more</td>",
            "<h2>agents</h2><p>none</p>",
        ] {
            assert!(page.contains(part), "`{part}` is not in {page}");
        }
        assert!(!page.contains("<script"), "{page}");
    }
}
