//! What the demo shows while sectors are sealed: lines that move on a terminal, one line for each
//! change elsewhere. Everything on stderr.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use xtask::farm::{SectorRow, TaskRow};

/// More sectors than this are shown together.
const LINES_MAX: usize = 16;
/// The phases a sector goes through, in order, for an estimate of what is left.
const PHASES: usize = 6;

/// The display.
pub(super) struct Live {
    terminal: bool,
    bars: MultiProgress,
    total: ProgressBar,
    lines: BTreeMap<u64, ProgressBar>,
    said: BTreeMap<u64, String>,
}

impl Live {
    /// For `sectors` sectors.
    pub(super) fn new(sectors: usize) -> Self {
        let bars = MultiProgress::new();
        let total = bars.add(ProgressBar::new((sectors * PHASES) as u64));
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len} phases  {elapsed} so far, about {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        total.set_style(style);
        let terminal = std::io::stderr().is_terminal() && sectors <= LINES_MAX;
        Self { terminal, bars, total, lines: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, sectors: &[SectorRow], tasks: &[TaskRow], elapsed: Duration) {
        let done: usize = sectors.iter().map(|s| s.phases.len()).sum();
        self.total.set_position(done as u64);
        for sector in sectors {
            let task = tasks.iter().find(|task| task.sector == sector.number);
            let text = line(sector, task);
            if self.terminal {
                self.bar(sector.number).set_message(text);
            } else {
                let change = change_of(sector, task);
                if self.said.get(&sector.number) != Some(&change) {
                    eprintln!("demo: {:7.1} s  {text}", elapsed.as_secs_f64());
                    self.said.insert(sector.number, change);
                }
            }
        }
    }

    fn bar(&mut self, sector: u64) -> &ProgressBar {
        let bars = &self.bars;
        self.lines.entry(sector).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        })
    }
}

/// The moving lines stop, so that what is said next stands below them.
impl Drop for Live {
    fn drop(&mut self) {
        for bar in self.lines.values() {
            bar.abandon();
        }
        self.total.finish_and_clear();
    }
}

fn line(sector: &SectorRow, task: Option<&TaskRow>) -> String {
    let agent = sector.agent.as_deref().unwrap_or("-");
    let mut text = format!("sector {:4}  {:<20} {agent}", sector.number, sector.state);
    if let Some(task) = task {
        let worker = task.worker.as_deref().unwrap_or("(queued)");
        text.push_str(&format!("  {} on {worker}", task.task));
        if let Some(fraction) = task.fraction {
            text.push_str(&format!(" {:3.0} %", fraction * 100.0));
        }
        if let Some(elapsed) = task.elapsed_s {
            text.push_str(&format!(" {elapsed:.0} s"));
        }
    }
    if let Some(reason) = &sector.reason {
        text.push_str(&format!("  {reason}"));
    }
    text
}

/// What a new line is worth: state, phase and worker, but not the time.
fn change_of(sector: &SectorRow, task: Option<&TaskRow>) -> String {
    let task = task.map(|t| format!("{} {}", t.task, t.worker.as_deref().unwrap_or_default()));
    format!("{} {}", sector.state, task.unwrap_or_default())
}
