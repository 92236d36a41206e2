//! docs/benchmarks.md: the measured part is written by `cargo xtask bench`, the rest by hand.

use std::fmt::Write as _;

use super::Figures;
use super::parameters::Parameters;
use super::reliability::Reliability;

/// A part of the page that a command writes, by the marks around it.
#[derive(Clone, Copy)]
pub(super) struct Part {
    begin: &'static str,
    end: &'static str,
}

/// The farm's figures.
pub(super) const FARM: Part = Part { begin: "<!-- measured: begin -->", end: "<!-- measured: end -->" };
/// The figures of making parameters.
pub(super) const PARAMETERS: Part =
    Part { begin: "<!-- parameters: begin -->", end: "<!-- parameters: end -->" };

/// The figures of noticing and going on.
pub(super) const RELIABILITY: Part =
    Part { begin: "<!-- reliability: begin -->", end: "<!-- reliability: end -->" };

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

/// The part on making parameters.
pub(super) fn parameters(figures: &Parameters, machine: &str) -> String {
    let mut text = String::new();
    let Parameters { ours, upstream, equal } = figures;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let _ = writeln!(text, "Machine: {machine}. Command: `cargo xtask bench --parameters`.\n");
    let _ =
        writeln!(text, "| seal parameters of 2 KiB sectors | ours | upstream's | ratio |\n|---|---|---|---|");
    let rows = [
        ("time, s", ours.elapsed_s, upstream.elapsed_s),
        ("most memory, MiB", mib(ours.peak_memory_bytes), mib(upstream.peak_memory_bytes)),
    ];
    for (what, ours, upstream) in rows {
        let _ = writeln!(text, "| {what} | {ours:.1} | {upstream:.1} | {:.3} |", ours / upstream);
    }
    let said = if *equal { "the same bytes" } else { "other bytes" };
    let _ = writeln!(
        text,
        "\nBoth wrote {said}. Where the time of ours goes (synthesis and h run side by side):\n"
    );
    let _ = writeln!(text, "| stage | s |\n|---|---|");
    for (stage, seconds) in &ours.stages_s {
        let _ = writeln!(text, "| {stage} | {seconds:.1} |");
    }
    let bound = ours.bound_s();
    let _ = writeln!(
        text,
        "\n{} points in G1 and {} in G2 for {} constraints. Their additions alone, at six field multiplications an addition ({:.1} ns each in G1's field here, three times that in G2's) on {} cores, take {bound:.1} s: the whole takes {:.2} times that.",
        ours.counts.points_g1,
        ours.counts.points_g2,
        ours.counts.constraints,
        ours.field_multiplication_ns,
        ours.cores,
        ours.elapsed_s / bound
    );
    text
}

/// The part on noticing and going on.
pub(super) fn reliability(figures: &Reliability, machine: &str) -> String {
    let mut text = String::new();
    let seconds = |samples: &[f64]| {
        let shown: Vec<String> = samples.iter().map(|s| format!("{s:.1}")).collect();
        shown.join(", ")
    };
    let _ = writeln!(
        text,
        "Machine: {machine}. Command: `cargo xtask bench --reliability`. Settings as shipped: leases of 15 s, ack wait 60 s.\n"
    );
    let _ = writeln!(text, "| what | measured, s | bound, s |\n|---|---|---|");
    let _ = writeln!(
        text,
        "| an agent killed, until the miner shows its site as gone | {} | lease 15 + 1 |",
        seconds(&figures.agent_gone_s)
    );
    let _ = writeln!(
        text,
        "| a worker killed, until another one runs its task | {} | ack wait 60 + 5 |",
        seconds(&figures.task_elsewhere_s)
    );
    let _ = writeln!(
        text,
        "| a leading miner killed, until the one that stood by leads and has its records | {} | lease 15 + 2 |",
        seconds(&figures.taken_over_s)
    );
    let _ = writeln!(
        text,
        "| eight sectors undisturbed, and with the link cut for {:.0} s by {}: the cut cost | {:.1} and {:.1}: {:.1} | the cut's length, {:.1} |",
        figures.cut_lasted_s,
        figures.link,
        figures.undisturbed_s,
        figures.cut_s,
        figures.cut_s - figures.undisturbed_s,
        figures.cut_lasted_s
    );
    let _ = writeln!(
        text,
        "| the end of that cut, until the site is live at the miner | {:.1} | |",
        figures.back_s
    );
    text
}

/// The page with one measured part replaced; a page without it gets it at its end.
pub(super) fn replace_measured(page: &str, part: Part, measured: &str) -> String {
    let Part { begin, end } = part;
    let fresh = format!("{begin}\n{measured}{end}");
    match (page.find(begin), page.find(end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{fresh}{}", &page[..from], &page[to + end.len()..])
        }
        _ => format!("{page}\n{fresh}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_part_of_the_page_changes() {
        let part = |part: Part, text: &str| format!("{}\n{text}{}", part.begin, part.end);
        let page = format!("# Title\n{}\nby hand\n{}\n", part(FARM, "old\n"), part(PARAMETERS, "kept\n"));
        let want = format!("# Title\n{}\nby hand\n{}\n", part(FARM, "new\n"), part(PARAMETERS, "kept\n"));
        assert_eq!(replace_measured(&page, FARM, "new\n"), want);
        assert_eq!(
            replace_measured("# Title\n", FARM, "new\n"),
            format!("# Title\n\n{}\n", part(FARM, "new\n"))
        );
    }
}
