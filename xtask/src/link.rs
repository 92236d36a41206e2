//! A link that can be made bad: a TCP relay in front of a server, with latency, bandwidth, loss and
//! silence for each way by itself.
//!
//! It stands for a WAN where the kernel cannot play one. What a lossy network does to TCP is a wait for
//! retransmission, so that is what loss is here; a way that is closed delivers nothing and tells nobody,
//! and what was sent meanwhile arrives when it is open again, as TCP sees to.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ports::{self, PortBlock};

/// What one packet carries; loss is drawn for each.
const SEGMENT_BYTES: usize = 1448;
/// Read at a time.
const CHUNK_BYTES: usize = 8 * SEGMENT_BYTES;
/// Chunks under way on one way of one connection: the network's own buffer.
const CHUNKS_UNDER_WAY: usize = 64;
/// The least a sender waits until it sends again, as in Linux.
const RETRANSMISSION_MIN: Duration = Duration::from_millis(200);
/// How often a waiting thread looks whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How one way of a link behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Whether anything arrives at all.
    pub open: bool,
    /// From sent to arrived.
    pub latency: Duration,
    /// All connections of the link together do not share it: each has so much. `None`: no bound.
    pub bytes_per_second: Option<u64>,
    /// The share of packets that have to be sent again, 0 to 1.
    pub loss: f64,
}

impl Way {
    /// As good as the machine is.
    pub const GOOD: Self = Self { open: true, latency: Duration::ZERO, bytes_per_second: None, loss: 0.0 };
    /// Nothing arrives.
    pub const CLOSED: Self = Self { open: false, ..Self::GOOD };
}

/// How a link behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// From who connects to the server.
    pub up: Way,
    /// From the server to who connected.
    pub down: Way,
}

impl Weather {
    /// Nothing is wrong.
    pub const GOOD: Self = Self { up: Way::GOOD, down: Way::GOOD };
    /// Cut both ways.
    pub const CUT: Self = Self { up: Way::CLOSED, down: Way::CLOSED };
    /// The server hears nothing, and is heard.
    pub const CUT_UP: Self = Self { up: Way::CLOSED, down: Way::GOOD };
    /// The server hears, and is not heard.
    pub const CUT_DOWN: Self = Self { up: Way::GOOD, down: Way::CLOSED };

    /// Slow and lossy: 300 ms each way, 1 Mbit/s, two packets of a hundred lost.
    pub const fn slow() -> Self {
        let way = Way {
            open: true,
            latency: Duration::from_millis(300),
            bytes_per_second: Some(125_000),
            loss: 0.02,
        };
        Self { up: way, down: way }
    }
}

/// A relay to one server. Dropping it ends its connections and gives its port back.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    _claim: PortBlock,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    weather: Mutex<Weather>,
    changed: Condvar,
    over: AtomicBool,
    /// Draws made, for loss.
    draws: AtomicU64,
    rng_seed: u64,
    next: AtomicU64,
    /// By a number of its own: both ends of every connection.
    ends: Mutex<HashMap<u64, [Arc<TcpStream>; 2]>>,
}

impl Link {
    /// A relay on `ip` to `target`, on a port of its own. Loss is drawn from `rng_seed`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(ip: Ipv4Addr, target: SocketAddr, rng_seed: u64) -> Result<Self> {
        let claim = ports::claim_one()?;
        let address = SocketAddr::new(IpAddr::V4(ip), claim.base());
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            target,
            weather: Mutex::new(Weather::GOOD),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            draws: AtomicU64::new(0),
            rng_seed,
            next: AtomicU64::new(0),
            ends: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { address, shared, _claim: claim })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it behaves now.
    pub fn weather(&self) -> Weather {
        *self.shared.weather()
    }

    /// From now on it behaves like this.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather() = weather;
        self.shared.changed.notify_all();
    }

    /// Ends every connection at once, as a router that forgets them does.
    pub fn reset(&self) {
        self.shared.end_connections();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        self.shared.end_connections();
    }
}

/// A piece of a connection under way.
struct Piece {
    sent: Instant,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Shared {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn end_connections(&self) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for end in ends.drain().flat_map(|(_, ends)| ends) {
            // One that has ended already says so, which is as good.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.is_over() {
            match listener.accept() {
                Ok((client, _)) => {
                    let shared = self.clone();
                    thread::spawn(move || shared.relay(client));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_EVERY / 10),
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// One connection, until one end closes it.
    fn relay(self: Arc<Self>, client: TcpStream) {
        // Its first packet has to arrive before there is a connection at all.
        if self.way_opened(Direction::Up).is_none() {
            return;
        }
        let Ok(server) = TcpStream::connect_timeout(&self.target, Duration::from_secs(5)) else { return };
        for end in [&client, &server] {
            // Only a matter of speed.
            let _ = end.set_nonblocking(false).and_then(|()| end.set_nodelay(true));
        }
        let (client, server) = (Arc::new(client), Arc::new(server));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ends = [client.clone(), server.clone()];
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(number, ends);
        thread::scope(|scope| {
            scope.spawn(|| self.carry(Direction::Up, &client, &server));
            scope.spawn(|| self.carry(Direction::Down, &server, &client));
        });
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Carries one way of one connection.
    fn carry(&self, direction: Direction, from: &TcpStream, to: &TcpStream) {
        let (sender, receiver) = sync_channel(CHUNKS_UNDER_WAY);
        thread::scope(|scope| {
            scope.spawn(move || take_in(from, &sender));
            self.deliver(direction, &receiver, to);
            // Whoever sends into it learns that nobody listens.
            let _ = from.shutdown(Shutdown::Read);
        });
    }

    fn deliver(&self, direction: Direction, receiver: &Receiver<Piece>, mut to: &TcpStream) {
        while let Ok(piece) = receiver.recv() {
            let Some(way) = self.way_opened(direction) else { return };
            let arrives = piece.sent + way.latency + self.sent_again(&way, piece.bytes.len());
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            // It may have been closed meanwhile.
            if self.way_opened(direction).is_none() || to.write_all(&piece.bytes).is_err() {
                return;
            }
            if let Some(rate) = way.bytes_per_second {
                thread::sleep(Duration::from_secs_f64(piece.bytes.len() as f64 / rate.max(1) as f64));
            }
        }
        // The end of a connection travels like what came before it.
        if self.way_opened(direction).is_some() {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Waits until something arrives this way; `None` where the link ends first.
    fn way_opened(&self, direction: Direction) -> Option<Way> {
        let mut weather = self.weather();
        loop {
            if self.is_over() {
                return None;
            }
            let way = match direction {
                Direction::Up => weather.up,
                Direction::Down => weather.down,
            };
            if way.open {
                return Some(way);
            }
            weather = self
                .changed
                .wait_timeout(weather, LOOK_EVERY)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
    }

    /// How much longer these bytes take because some of them are lost on the way.
    fn sent_again(&self, way: &Way, bytes: usize) -> Duration {
        if way.loss <= 0.0 {
            return Duration::ZERO;
        }
        let wait = RETRANSMISSION_MIN.max(way.latency * 2);
        let lost = (0..bytes.div_ceil(SEGMENT_BYTES)).filter(|_| self.draw() < way.loss).count();
        // One retransmission covers all that was lost of one flight.
        if lost == 0 { Duration::ZERO } else { wait }
    }

    /// A number from 0 to 1: splitmix64 of the seed and how often it was asked.
    fn draw(&self) -> f64 {
        let count = self.draws.fetch_add(1, Ordering::Relaxed);
        splitmix(self.rng_seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15))) as f64
            / u64::MAX as f64
    }
}

/// Reads until the connection ends.
fn take_in(mut from: &TcpStream, sender: &SyncSender<Piece>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let piece = Piece { sent: Instant::now(), bytes: buffer[..count].to_vec() };
                if sender.send(piece).is_err() {
                    return;
                }
            }
        }
    }
}

/// The mixing of splitmix64: spreads a counter over all 64 bits.
pub fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says back what it hears, and a connection to it through a link.
    fn echo() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut reader, mut writer) = (&stream, &stream);
                    let _ = std::io::copy(&mut reader, &mut writer);
                });
            }
        });
        let link = Link::start(Ipv4Addr::LOCALHOST, target, 1).unwrap();
        let stream = TcpStream::connect(link.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (link, stream)
    }

    fn says_back(mut stream: &TcpStream, word: &[u8]) {
        stream.write_all(word).unwrap();
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, word);
    }

    /// Whether nothing comes for a while.
    fn is_silent(mut stream: &TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let silent = matches!(stream.read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }

    #[test]
    fn a_good_link_passes_everything_on() {
        let (_link, stream) = echo();
        says_back(&stream, b"hello");
        says_back(&stream, &[7; 30_000]);
    }

    #[test]
    fn what_was_sent_into_a_cut_arrives_when_it_is_over() {
        for weather in [Weather::CUT, Weather::CUT_UP, Weather::CUT_DOWN] {
            let (link, mut stream) = echo();
            says_back(&stream, b"before");
            link.set(weather);
            stream.write_all(b"during").unwrap();
            assert!(is_silent(&stream), "{weather:?}");
            link.set(Weather::GOOD);
            let mut heard = [0; 6];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"during");
        }
    }

    #[test]
    fn latency_and_loss_are_added_to_every_round() {
        let (link, stream) = echo();
        says_back(&stream, b"there");
        let way = Way { latency: Duration::from_millis(40), loss: 1.0, ..Way::GOOD };
        link.set(Weather { up: way, down: Way { loss: 0.0, ..way } });
        let started = Instant::now();
        says_back(&stream, b"slow");
        assert!(started.elapsed() >= Duration::from_millis(40 + 200 + 40), "{:?}", started.elapsed());
    }

    #[test]
    fn a_reset_ends_the_connections_and_new_ones_pass() {
        let (link, mut stream) = echo();
        says_back(&stream, b"first");
        link.reset();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        says_back(&TcpStream::connect(link.address()).unwrap(), b"second");
    }
}
