//! docs/benchmarks.md: the measured part is written by `cargo xtask bench`, the rest by hand.

use std::fmt::Write as _;

use super::Figures;

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// The measured part.
pub(super) fn render(figures: &Figures, machine: &str) -> String {
    let mut text = String::new();
    let farm = &figures.null_farm;
    let seconds = farm.elapsed.as_secs_f64();
    let dispatch = &figures.dispatch;
    let _ = writeln!(
        text,
        "Machine: {machine}. Command: `cargo xtask bench`. Every server fsyncs every message.\n"
    );
    let _ = writeln!(text, "| what | measured | against | ratio |\n|---|---|---|---|");
    let _ = writeln!(
        text,
        "| {} null sectors, 2 agents with 2 workers each, zero-length phases, epochs of 10 ms, challenge delay 1: pledge to all Proving | {seconds:.1} s | {} durable operations counted at the servers, as bare round trips one after another: {:.1} s | {:.2} |",
        farm.sectors,
        farm.durable_operations,
        farm.bare_seconds,
        seconds / farm.bare_seconds
    );
    let _ = writeln!(
        text,
        "| WAN payload a sector, both ways: mean, largest | {:.0} bytes, {} bytes | the budget of 8,192 bytes | {:.2} |",
        farm.wan_payload_mean,
        farm.wan_payload_max,
        farm.wan_payload_max as f64 / 8192.0
    );
    let _ = writeln!(
        text,
        "| WAN bytes a sector as the hub counts them on the agents' connections, both ways, headers and idle pulls included | {:.0} bytes | the mean payload | {:.2} |",
        farm.wan_counted_mean,
        farm.wan_counted_mean / farm.wan_payload_mean
    );
    for (name, task, bare) in [
        ("p50", dispatch.task.p50_ms, dispatch.bare.p50_ms),
        ("p99", dispatch.task.p99_ms, dispatch.bare.p99_ms),
    ] {
        let _ = writeln!(
            text,
            "| task published to the idle worker's first sign of progress, {name} of {} | {task:.2} ms | bare JetStream publish to pull: {bare:.2} ms | {:.2} |",
            dispatch.samples,
            task / bare
        );
    }
    if let Some(real) = &figures.real {
        let farm = real.in_farm.as_secs_f64();
        let _ = writeln!(
            text,
            "| a real 2 KiB sector in a farm of one worker, pledge to Proving (chain: epochs of 100 ms, challenge delay 1) | {farm:.1} s, of which phases {:.1} s | its phases called directly (`sealfarm-worker seal`): {:.1} s | {:.3} |",
            real.phases_in_farm,
            real.phases_direct,
            farm / real.phases_direct
        );
    }
    text
}

/// The page with its measured part replaced; a page without one gets it at its end.
pub(super) fn replace_measured(page: &str, measured: &str) -> String {
    let fresh = format!("{BEGIN}\n{measured}{END}");
    match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{fresh}{}", &page[..begin], &page[end + END.len()..])
        }
        _ => format!("{page}\n{fresh}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_part_of_the_page_changes() {
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nby hand\n");
        assert_eq!(replace_measured(&page, "new\n"), format!("# Title\n{BEGIN}\nnew\n{END}\nby hand\n"));
        assert_eq!(replace_measured("# Title\n", "new\n"), format!("# Title\n\n{BEGIN}\nnew\n{END}\n"));
    }
}
