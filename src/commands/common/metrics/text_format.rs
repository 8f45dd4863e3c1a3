//! Prometheus' text format (0.0.4), from OpenMetrics: pure.
//!
//! A family of counters has the suffix `_total` in its name there, one of infos is a gauge with
//! `_info`, and there are no units and no end mark.

use std::fmt::Write;

/// Converts OpenMetrics text.
pub(super) fn of(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let Some(meta) = line.strip_prefix("# ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        if let Some(told) = meta.strip_prefix("HELP ") {
            help = told.split_once(' ');
        } else if let Some((name, kind)) = meta.strip_prefix("TYPE ").and_then(|told| told.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                let _ = writeln!(out, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_named_with_their_suffixes() {
        let open_metrics = "# HELP a_build The program.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
            # HELP a_pokes Pokes.\n# TYPE a_pokes counter\na_pokes_total{to=\"# TYPE x counter\"} 3\n\
            # HELP a_wait_seconds Waits.\n# TYPE a_wait_seconds histogram\n# UNIT a_wait_seconds seconds\n\
            a_wait_seconds_count 0\n# EOF\n";
        let text = "# HELP a_build_info The program.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
            # HELP a_pokes_total Pokes.\n# TYPE a_pokes_total counter\na_pokes_total{to=\"# TYPE x counter\"} 3\n\
            # HELP a_wait_seconds Waits.\n# TYPE a_wait_seconds histogram\na_wait_seconds_count 0\n";
        assert_eq!(of(open_metrics), text);
    }
}
