//! The frame of a page: one file that asks for nothing, and in which no script but its own may run.

use std::fmt::Write;

use sensei_files::digest::sha256;
use serde_json::Value;

use crate::base64::base64;

/// Text as HTML's content and attributes hold it. All that comes from files goes through it.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char if char.is_control() && !matches!(char, '\n' | '\t') => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// A whole page: `body` is HTML, `data` what its charts are drawn from.
pub(crate) fn document(title: &str, body: &str, data: &Value) -> String {
    let source = |script: &str| format!("'sha256-{}'", base64(&sha256(script.as_bytes())));
    // Without `<`, no text in it can end the element.
    let data = data.to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
         script-src {} {}; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>{CHART_STYLE}\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the content</a>\n{body}\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <!-- The charts are drawn by uPlot 1.6.32.\n{CHART_LICENCE}-->\n\
         <script>{CHARTS}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        source(CHARTS),
        source(SCRIPT),
        escape(title)
    )
}

/// A part of the page with a heading that its links lead to.
pub(crate) fn section(id: &str, title: &str, content: &str) -> String {
    format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{}</h2>\n{content}\n</section>\n", escape(title))
}

/// Links to the sections of a page, which are found by their headings.
pub(crate) fn contents(body: &str) -> String {
    let mut links = String::new();
    for part in body.split("<h2 id=\"").skip(1) {
        let Some((id, rest)) = part.split_once("\">") else { continue };
        let Some((title, _)) = rest.split_once("</h2>") else { continue };
        // Writing into a string does not fail.
        let _ = write!(links, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    format!("<nav aria-label=\"Sections\"><ul>{links}</ul></nav>\n")
}

/// Something that is closed until a reader opens it; `summary` and `content` are HTML.
pub(crate) fn folded(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n{content}\n</details>\n")
}

/// A table with a caption. Cells and caption are HTML.
pub(crate) struct Table {
    caption: String,
    head: Vec<String>,
    rows: Vec<String>,
    class: &'static str,
}

/// A cell: what it shows, and what it is sorted by.
pub(crate) struct Cell {
    html: String,
    value: Option<f64>,
}

impl Cell {
    /// HTML.
    pub(crate) fn html(html: impl Into<String>) -> Self {
        Self { html: html.into(), value: None }
    }

    /// Text, which is escaped.
    pub(crate) fn text(text: &str) -> Self {
        Self::html(escape(text))
    }

    /// The same without colours.
    pub(crate) fn plain(self) -> Self {
        Self { html: self.html.replace(" class=\"good\"", "").replace(" class=\"bad\"", ""), value: self.value }
    }

    /// HTML that is sorted as this number.
    pub(crate) fn number(value: f64, html: impl Into<String>) -> Self {
        Self { html: html.into(), value: Some(value) }
    }
}

impl Table {
    /// A table of these columns, the first of which names the row.
    pub(crate) fn new(caption: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(|cell| escape(cell)).collect();
        Self { caption: caption.into(), head, rows: vec![], class: "" }
    }

    /// A reader may sort it by any column.
    pub(crate) fn sortable(mut self) -> Self {
        self.class = "sortable";
        self
    }

    /// Its cells hold long texts, which may break anywhere.
    pub(crate) fn wide(mut self) -> Self {
        self.class = "wide";
        self
    }

    /// Adds a row; `class` may be empty.
    pub(crate) fn row(&mut self, class: &str, cells: &[Cell]) {
        let mut row = if class.is_empty() { "<tr>".to_string() } else { format!("<tr class=\"{class}\">") };
        for (idx, Cell { html, value }) in cells.iter().enumerate() {
            let sorted_by = value.map_or_else(String::new, |value| format!(" data-v=\"{value}\""));
            row.push_str(&match idx {
                0 => format!("<th scope=\"row\"{sorted_by}>{html}</th>"),
                _ => format!("<td{sorted_by}>{html}</td>"),
            });
        }
        row.push_str("</tr>\n");
        self.rows.push(row);
    }

    /// The table, which scrolls by itself where the screen is narrow.
    pub(crate) fn html(&self) -> String {
        let head: String = self.head.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
        let class = self.class;
        format!(
            "<div class=\"scroll\"><table class=\"{class}\">\n<caption><span>{}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
            self.caption,
            self.rows.concat()
        )
    }
}

const STYLE: &str = include_str!("../assets/report.css");
const SCRIPT: &str = include_str!("../assets/report.js");
const CHARTS: &str = include_str!("../assets/uplot-1.6.32/uPlot.iife.min.js");
const CHART_STYLE: &str = include_str!("../assets/uplot-1.6.32/uPlot.min.css");
const CHART_LICENCE: &str = include_str!("../assets/uplot-1.6.32/LICENSE");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_from_a_file_becomes_markup_or_script() {
        let evil = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"\u{1b}";
        let mut table = Table::new(escape(evil), &[evil]);
        table.row("", &[Cell::text(evil)]);
        let body = section("a", evil, &table.html());
        let page = document(evil, &format!("{}{body}", contents(&body)), &json!({ "label": evil }));
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x") && !page.contains('\u{1b}'), "{page}");
        // The page's own: its data, the charts and what draws them.
        assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (3, 3));
        assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)"));
        assert!(page.contains("href=\"#a\">&lt;/script&gt;"));
    }

    #[test]
    fn the_policy_names_the_pages_own_scripts() {
        let page = document("t", "", &json!({}));
        for script in [CHARTS, SCRIPT] {
            assert!(page.contains(&format!("<script>{script}</script>")));
            assert!(!script.contains("</script"), "it would end early");
            assert!(page.contains(&format!("'sha256-{}'", base64(&sha256(script.as_bytes())))));
        }
        assert!(!CHART_LICENCE.contains("--"), "it stands in a comment");
        for style in [CHART_STYLE, STYLE] {
            assert!(!style.contains("url(") && !style.contains("@import"), "the page asks for nothing");
        }
    }
}
