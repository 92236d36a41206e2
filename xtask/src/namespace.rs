//! A network namespace of its own for a site, with one cable to this machine, where the kernel itself
//! drops packets: `ip`, `nft` and `tc`, as root.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::link::Weather;
use crate::ports::{self, PortBlock};

/// Packets a second at the bandwidth asked for may be this late before they are dropped.
const QUEUE_LIMIT: &str = "400ms";

/// A namespace and its cable. Dropping it removes both.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The cable's end here.
    here: String,
    /// The cable's end there.
    there: String,
    block: PortBlock,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Without root, or where the kernel or the programs `ip` and `nft` lack what it takes.
    pub fn new() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        // Unique among all who claim ports on this machine, and a name and a network follow from it.
        let block = ports::claim_one()?;
        let name = format!("sealfarm-{}", block.base());
        let (here, there) = (format!("sf{}a", block.base()), format!("sf{}b", block.base()));
        // Left over by one that was killed.
        let _ = run("ip", &["netns", "del", &name]);
        let made = Self { name, here, there, block };
        made.build()?;
        Ok(made)
    }

    fn build(&self) -> Result<()> {
        let Self { name, here, there, .. } = self;
        let (near, far) = (format!("{}/30", self.near()), format!("{}/30", self.far()));
        run("ip", &["netns", "add", name])?;
        run("ip", &["link", "add", here, "type", "veth", "peer", "name", there, "netns", name])?;
        run("ip", &["addr", "add", &near, "dev", here])?;
        run("ip", &["link", "set", here, "up"])?;
        run("ip", &["-n", name, "addr", "add", &far, "dev", there])?;
        run("ip", &["-n", name, "link", "set", there, "up"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        self.set(Weather::GOOD)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This machine's address, seen from inside.
    pub fn near(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address inside.
    pub fn far(&self) -> Ipv4Addr {
        self.address(2)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        // 10.192.0.0/10 in pieces of four addresses, one for each port that can be claimed.
        let network = u32::from(self.block.base()) * 4;
        let [_, a, b, c] = network.to_be_bytes();
        Ipv4Addr::new(10, 192 | (a & 0x3f), b, c | host)
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does `work` inside, on a thread of its own.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and those of `work`.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let enter = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter namespace {}", self.name))?;
            work()
        };
        std::thread::scope(|scope| {
            scope.spawn(enter).join().unwrap_or_else(|_| bail!("the thread inside {} panicked", self.name))
        })
    }

    /// From now on the kernel treats packets like this: what is closed or lost is dropped, and bandwidth is
    /// shaped. Latency is not the kernel's to add here.
    ///
    /// # Errors
    /// When `nft` or `tc` refuse.
    pub fn set(&self, weather: Weather) -> Result<()> {
        let rule = |open: bool, loss: f64| match (open, (loss * 1000.0).round() as u32) {
            (false, _) => "drop".to_owned(),
            (true, 0) => "accept".to_owned(),
            (true, lost) => format!("numgen random mod 1000 < {lost} drop"),
        };
        let there = &self.there;
        let (out, into) =
            (rule(weather.up.open, weather.up.loss), rule(weather.down.open, weather.down.loss));
        let rules = format!(
            "table inet wan\ndelete table inet wan\ntable inet wan {{\n\
             chain out {{ type filter hook output priority 0;\noifname \"{there}\" {out}\n}}\n\
             chain into {{ type filter hook input priority 0;\niifname \"{there}\" {into}\n}}\n}}\n"
        );
        feed("ip", &["netns", "exec", &self.name, "nft", "-f", "-"], &rules)?;
        self.shape(&["-n", &self.name], there, weather.up.bytes_per_second)?;
        self.shape(&[], &self.here, weather.down.bytes_per_second)
    }

    fn shape(&self, place: &[&str], device: &str, bytes_per_second: Option<u64>) -> Result<()> {
        let Some(rate) = bytes_per_second else {
            // There is none to remove where none was set.
            let _ = run("tc", &[place, &["qdisc", "del", "dev", device, "root"]].concat());
            return Ok(());
        };
        let rate = format!("{}bit", rate * 8);
        let tbf = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", QUEUE_LIMIT];
        run("tc", &[place, &["qdisc", "replace", "dev", device], &tbf].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    feed(program, arguments, "")
}

fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended early says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// Whether a connection from inside reaches this machine.
    fn reaches(namespace: &Namespace, port: u16) -> bool {
        let target = SocketAddr::new(namespace.near().into(), port);
        namespace.inside(|| Ok(TcpStream::connect_timeout(&target, Duration::from_millis(500))?)).is_ok()
    }

    #[test]
    fn packets_are_dropped_by_the_kernel_either_way_or_this_says_that_it_cannot_be_tried() {
        let namespace = match Namespace::new() {
            Ok(namespace) => namespace,
            Err(reason) => {
                // Not a test of this machine's rights: the relay plays the link without them.
                assert!(format!("{reason:#}").len() > 10);
                eprintln!("not tried here: {reason:#}");
                return;
            }
        };
        let listener = TcpListener::bind((namespace.near(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reaches(&namespace, port));
        for weather in [Weather::CUT, Weather::CUT_UP, Weather::CUT_DOWN] {
            namespace.set(weather).unwrap();
            assert!(!reaches(&namespace, port), "{weather:?}");
        }
        namespace.set(Weather::slow()).unwrap();
        namespace.set(Weather::GOOD).unwrap();
        assert!(reaches(&namespace, port));
    }
}
