//! A report as a page that stands alone.

use std::fmt::Write;

use super::compare::Report;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}\
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}td{font-variant-numeric:tabular-nums;white-space:nowrap}\
td.text{text-align:left;white-space:normal;overflow-wrap:anywhere}\
.bar{display:inline-block;height:.7em;background:#4a7fb5}.out{color:#b00020;font-weight:600}.in{color:#1b6e3c}";

impl Report {
    /// The report as one HTML page, without scripts or other files.
    pub fn to_html(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_html(&mut page);
        page
    }

    fn write_html(&self, page: &mut String) -> std::fmt::Result {
        let verdict = |within: bool| match within {
            true => "<span class=in>within</span>",
            false => "<span class=out>beyond</span>",
        };
        write!(
            page,
            "<!doctype html><html lang=en><meta charset=utf-8><title>Parity with Flax</title>\
             <style>{STYLE}</style><h1>Parity with Flax: {}</h1><p>{} on {}. Allowed: differences up to {:.1e} of each \
             array's largest value, KL up to {} nats.</p>",
            verdict(self.within),
            escape(&self.dtype),
            escape(&self.device),
            self.tolerance.relative,
            self.tolerance.kl
        )?;
        if !self.arrays.is_empty() {
            page.push_str(
                "<h2>Arrays</h2><table><tr><th>array<th>max abs<th>mean abs<th>p50<th>p90<th>p99<th>p99.9\
                 <th>cosine<th>max / scale<th>of what is allowed<th></tr>",
            );
            for array in &self.arrays {
                let a = &array.agreement;
                let share = (a.max_relative / self.tolerance.relative).clamp(0.0, 1.0);
                write!(
                    page,
                    "<tr><td>{}<td>{:.2e}<td>{:.2e}<td>{:.2e}<td>{:.2e}<td>{:.2e}<td>{:.2e}<td>{:.8}<td>{:.2e}\
                     <td style=text-align:left><span class=bar style=width:{:.1}rem></span><td>{}</tr>",
                    escape(&array.name),
                    a.max_abs,
                    a.mean_abs,
                    a.p50,
                    a.p90,
                    a.p99,
                    a.p999,
                    a.cosine,
                    a.max_relative,
                    share * 10.0,
                    verdict(array.within)
                )?;
            }
            page.push_str("</table>");
        }
        if let Some(logits) = &self.logits {
            write!(
                page,
                "<h2>Distributions</h2><p>KL per position: largest {:.3e}, mean {:.3e} nats ({}). The same token \
                 preferred at {} of {} positions.</p>",
                logits.kl_max,
                logits.kl_mean,
                verdict(logits.within),
                logits.top1_agreements,
                logits.positions
            )?;
        }
        if let Some([rows, new]) = self.generated {
            write!(
                page,
                "<h2>Greedy tokens</h2><p>{} of {rows} rows agree over all {new} new tokens.</p>",
                rows - self.divergences.len()
            )?;
        }
        if !self.divergences.is_empty() {
            page.push_str(
                "<table><tr><th>row<th>agreeing tokens<th>ours<th>Flax<th>margin<th>margin / scale<th></tr>",
            );
            for d in &self.divergences {
                write!(
                    page,
                    "<tr><td>{}<td>{}<td>{}<td>{}<td>{:.3e}<td>{:.3e}<td>{}</tr>",
                    d.row,
                    d.step,
                    d.ours,
                    d.reference,
                    d.margin,
                    d.relative_margin,
                    verdict(d.within)
                )?;
            }
            page.push_str("</table>");
        }
        page.push_str("<h2>How the reference was made</h2><table>");
        for (key, value) in &self.reference {
            let text = match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            write!(
                page,
                "<tr><td>{}<td class=text>{}</tr>",
                escape(key),
                escape(&text)
            )?;
        }
        page.push_str("</table></html>\n");
        Ok(())
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
