//! Recording in namespaces: a thread for each, which reads what the kernel kept and has it judged.
//!
//! In: namespaces, who is enrolled. Out: a [`Report`]. What is asked of a recorder takes effect between two packets: those
//! that were on the wire before are judged before. Not here: what a packet means (`judge`).

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::judge::Judge;
use super::report::Report;
use super::tap::Tap;
use crate::netns::Netns;

/// Longest time for the kernel to hand over what it has counted; it does so within milliseconds.
const HAND_OVER_LIMIT: Duration = Duration::from_mins(1);

/// Longest time between two looks at everything; packets and commands wake a thread themselves.
const WAIT_MS: u64 = 50;

/// How much a recording thread is preferred: what it does not get to read in time is lost, and with it the verdict.
const NICE: i32 = 20;

/// A recording in progress. Dropping it stops it without a report.
pub struct Recorder {
    places: Vec<Place>,
}

/// A thread that records in one namespace.
struct Place {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    judged: Arc<AtomicU64>,
    thread: JoinHandle<Result<Judge>>,
}

/// What is asked of a recording thread.
enum Command {
    /// Replace the enrolled addresses, then end the channel.
    Enrolled(HashSet<IpAddr>, Sender<()>),
    /// End.
    Stop,
}

/// How reading went.
enum Next {
    /// On with the next block.
    More,
    /// Wait: there is none.
    Nothing,
    /// A command ends it.
    Stop,
}

/// A thread's own side.
struct Recording {
    tap: Tap,
    judge: Judge,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    judged: Arc<AtomicU64>,
    /// Frames judged.
    read: u64,
    /// Commands, each with the frames to be judged before, and since when it waits.
    due: VecDeque<(u64, Instant, Command)>,
}

// === impl Recorder ===

impl Recorder {
    /// Starts recording; when this returns, every later packet is seen.
    pub fn start(namespaces: &[Netns], enrolled: impl IntoIterator<Item = IpAddr>) -> Result<Self> {
        Self::start_with(namespaces, enrolled, [])
    }

    /// Starts recording where programs of the mesh have these addresses, which send each other no payload in clear.
    pub fn start_with(
        namespaces: &[Netns],
        enrolled: impl IntoIterator<Item = IpAddr>,
        mesh: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self> {
        let mesh: HashSet<IpAddr> = mesh.into_iter().collect();
        let places = namespaces.iter().map(|netns| Place::start(netns, &mesh));
        let this = Self {
            places: places.collect::<Result<_>>()?,
        };
        this.set_enrolled(enrolled);
        Ok(this)
    }

    /// Replaces the addresses between which everything must be inside TLS, for packets from now on.
    pub fn set_enrolled(&self, enrolled: impl IntoIterator<Item = IpAddr>) {
        let enrolled: HashSet<IpAddr> = enrolled.into_iter().collect();
        let (done, all_done) = channel();
        for place in &self.places {
            place.tell(Command::Enrolled(enrolled.clone(), done.clone()));
        }
        drop(done);
        // An error is the end of every sender: all have done it, or have failed, which their end tells.
        let _ = all_done.recv();
    }

    /// TCP packets between enrolled pods that have been judged so far at a place, by its number.
    pub fn judged(&self, place: usize) -> u64 {
        self.places[place].judged.load(Ordering::Relaxed)
    }

    /// Stops when every packet that was on the wire before this call has been judged.
    pub fn stop(mut self) -> Result<Report> {
        for place in &self.places {
            place.tell(Command::Stop);
        }
        let ends = self.places.drain(..).map(Place::end);
        let findings: Vec<_> = ends.collect::<Result<_>>()?;
        Ok(Report::of(findings.into_iter().map(Judge::findings)))
    }
}

// === impl Place ===

impl Place {
    fn start(netns: &Netns, mesh: &HashSet<IpAddr>) -> Result<Self> {
        let place = netns.name();
        let tap = netns
            .enter(Tap::open)
            .with_context(|| format!("cannot record in {place}"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.context("cannot make an event")?);
        let (sender, commands) = channel();
        let judged = Arc::new(AtomicU64::new(0));
        let recording = Recording {
            tap,
            judge: Judge::new(place, mesh.clone()),
            commands,
            wake: wake.clone(),
            judged: judged.clone(),
            read: 0,
            due: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("record {place}"))
            .spawn(move || {
                // Of this thread alone. Whoever may not be preferred records all the same, as long as the ring suffices.
                let _ = rustix::process::nice(-NICE);
                recording.run()
            })
            .context("cannot start a thread")?;
        Ok(Self {
            commands: sender,
            wake,
            judged,
            thread,
        })
    }

    fn tell(&self, command: Command) {
        // A thread that has failed hears nothing; its error comes with its end.
        let _ = self.commands.send(command);
        rouse(&self.wake);
    }

    fn end(self) -> Result<Judge> {
        let joined = self.thread.join();
        joined.map_err(|_| anyhow!("a recording thread panicked"))?
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for Place { commands, wake, .. } in self.places.drain(..) {
            drop(commands);
            rouse(&wake);
        }
    }
}

fn rouse(wake: &OwnedFd) {
    // Full means that it is awake.
    let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
}

// === impl Recording ===

impl Recording {
    fn run(mut self) -> Result<Judge> {
        loop {
            self.hear()?;
            match self.read_block() {
                Next::Stop => break,
                Next::More => {}
                Next::Nothing => {
                    let oldest = self.due.front().map(|(_, since, _)| since.elapsed());
                    ensure!(
                        oldest.is_none_or(|age| age < HAND_OVER_LIMIT),
                        "the kernel counts more packets than it hands over"
                    );
                    self.tap.wait(&self.wake, WAIT_MS)?;
                }
            }
        }
        let dropped = self.tap.dropped()?;
        self.judge.set_dropped(dropped);
        Ok(self.judge)
    }

    /// Takes commands in; each is for when all that the kernel has counted up to now is judged.
    fn hear(&mut self) -> Result<()> {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    let kept = self.tap.kept()?;
                    self.due.push_back((kept, Instant::now(), command));
                }
                Err(TryRecvError::Empty) => return Ok(()),
                // The recorder is gone; before it stops one, a command to stop waits here.
                Err(TryRecvError::Disconnected) => {
                    ensure!(!self.due.is_empty(), "nobody listens to this recording");
                    return Ok(());
                }
            }
        }
    }

    fn read_block(&mut self) -> Next {
        let Self {
            tap,
            judge,
            read,
            due,
            ..
        } = self;
        if obey(due, *read, judge) {
            return Next::Stop;
        }
        let Some(mut block) = tap.block() else {
            return Next::Nothing;
        };
        while let Some((frame, length)) = block.frame() {
            judge.packet(frame, length);
            *read += 1;
            if obey(due, *read, judge) {
                return Next::Stop;
            }
        }
        drop(block);
        self.judged.store(judge.judged(), Ordering::Relaxed);
        Next::More
    }
}

/// Does what is due after so many frames; whether that is to stop.
fn obey(due: &mut VecDeque<(u64, Instant, Command)>, read: u64, judge: &mut Judge) -> bool {
    while due.front().is_some_and(|(at, ..)| *at <= read) {
        match due.pop_front() {
            Some((.., Command::Enrolled(enrolled, done))) => {
                judge.set_enrolled(enrolled);
                drop(done);
            }
            Some((.., Command::Stop)) => return true,
            None => {}
        }
    }
    false
}
