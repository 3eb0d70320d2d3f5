//! One event done to the instance.

use crate::instance::{Instance, SECOND_READER, Victim, lease};
use crate::plan::{Event, Kind};
use crate::stall::Stalls;
use anyhow::{Result, bail};
use rustix::process::Signal;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use system_tests::pipeline::Part;

/// What an event did.
#[derive(Debug)]
pub struct Hit {
    /// When the first blow fell.
    pub at: Instant,
    /// Epochs from which on the kernels that were hit work again.
    pub epochs: Vec<(Part, u64)>,
    /// What was done, for people.
    pub text: String,
    /// What should not have happened.
    pub complaint: Option<String>,
}

/// A watchdog looks eight times in its time, at most every 20 ms, and its blow needs time to fall.
const WATCHDOG_SLACK: Duration = Duration::from_millis(700);
/// Viewers that read nothing, at a time.
const VIEWERS: usize = 4;

/// Whoever hits.
pub struct Attacker {
    /// Port of the second reader's watch page.
    pub http_port: u16,
    /// The watchdog's time.
    pub hang_timeout: Duration,
    /// Connections that nobody reads.
    pub viewers: Vec<TcpStream>,
}

impl Attacker {
    /// Does it, and returns when it is done; the recovery is not waited for.
    ///
    /// # Errors
    /// When the instance gives nothing to hit within a time in which it should.
    pub fn hit(&mut self, instance: &mut Instance, event: &Event, stalls: &Stalls) -> Result<Hit> {
        match event.kind {
            Kind::Kill | Kind::KillTwo | Kind::KillAll => kill(instance, event),
            Kind::KillAgain => kill_again(instance, event),
            Kind::Stop | Kind::FullRing | Kind::Hang => self.stop(instance, event, stalls),
            Kind::SlowReader => self.slow_reader(instance, event),
            Kind::Swap => swap(instance, event),
            Kind::Restart => restart(instance, event),
            Kind::Supervisor => supervisor(instance, event),
        }
    }

    fn stop(&self, instance: &Instance, event: &Event, stalls: &Stalls) -> Result<Hit> {
        let part = event.parts[0];
        let victim = instance.wait_for_holder(&lease(part), 0)?;
        let at = Instant::now();
        victim.signal(Signal::STOP);
        std::thread::sleep(event.lasts);
        let before_look = at.elapsed();
        let replaced = instance.info(&lease(part)).is_some_and(|info| info.epoch > victim.epoch);
        let after_look = at.elapsed();
        victim.signal(Signal::CONT);
        let text = format!("SIGSTOP of {} ({}) for {} ms", part.short(), victim.pid, after_look.as_millis());
        // A watchdog that itself was kept from running gives everybody their time anew.
        let since = at.checked_sub(self.hang_timeout).unwrap_or(at);
        let stalled = !stalls.within(since, Instant::now()).is_zero();
        let wrong = judge(self.hang_timeout, (before_look, after_look), replaced).filter(|_| !stalled);
        let complaint = wrong.map(|wrong| format!("{text}: {wrong}"));
        Ok(Hit { at, epochs: vec![(part, victim.epoch)], text, complaint })
    }

    fn slow_reader(&mut self, instance: &Instance, event: &Event) -> Result<Hit> {
        let victim = instance.wait_for_holder(SECOND_READER, 0)?;
        let at = Instant::now();
        let text = match event.variant % 3 {
            0 => {
                victim.signal(Signal::STOP);
                std::thread::sleep(event.lasts);
                victim.signal(Signal::CONT);
                format!("SIGSTOP of {SECOND_READER} ({}) for {} ms", victim.pid, event.lasts.as_millis())
            }
            1 => {
                victim.signal(Signal::KILL);
                std::thread::sleep(event.lasts);
                format!("SIGKILL of {SECOND_READER} ({})", victim.pid)
            }
            _ => {
                if self.viewers.len() == VIEWERS {
                    self.viewers.remove(0);
                }
                // Its page may be starting: then there is no viewer this time.
                self.viewers.extend(watch_without_reading(self.http_port));
                std::thread::sleep(event.lasts);
                format!("a viewer that reads nothing, {} of them", self.viewers.len())
            }
        };
        Ok(Hit { at, epochs: Vec::new(), text, complaint: None })
    }
}

/// What is wrong with the watchdog, which had replaced a kernel or not when that had stood still for a time between
/// these two.
fn judge(hang_timeout: Duration, (at_least, at_most): (Duration, Duration), replaced: bool) -> Option<&'static str> {
    if !replaced && at_least > hang_timeout + WATCHDOG_SLACK {
        return Some("not replaced within it");
    }
    // The last heartbeat may be a little older than the stop.
    (replaced && at_most < hang_timeout * 8 / 10).then_some("replaced although it was no hang")
}

/// A WebSocket client (RFC 6455 section 4.1) that asks for the stream and then reads nothing.
fn watch_without_reading(port: u16) -> Option<TcpStream> {
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()?;
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .ok()?;
    Some(stream)
}

fn kill(instance: &Instance, event: &Event) -> Result<Hit> {
    let victims: Result<Vec<Victim>> =
        event.parts.iter().map(|part| instance.wait_for_holder(&lease(*part), 0)).collect();
    let victims = victims?;
    let at = Instant::now();
    victims.iter().for_each(|victim| victim.signal(Signal::KILL));
    let pids: Vec<String> = victims.iter().map(|victim| victim.pid.to_string()).collect();
    let epochs = event.parts.iter().zip(&victims).map(|(part, victim)| (*part, victim.epoch + 1)).collect();
    let text = format!("SIGKILL of {} ({})", event.letters(), pids.join(", "));
    Ok(Hit { at, epochs, text, complaint: None })
}

fn kill_again(instance: &Instance, event: &Event) -> Result<Hit> {
    let part = event.parts[0];
    let first = instance.wait_for_holder(&lease(part), 0)?;
    let at = Instant::now();
    first.signal(Signal::KILL);
    let second = instance.wait_for_holder(&lease(part), first.pid)?;
    std::thread::sleep(event.lasts);
    second.signal(Signal::KILL);
    let text = format!(
        "SIGKILL of {} ({}) and of its successor ({}) {} µs after that took over",
        event.letters(),
        first.pid,
        second.pid,
        event.lasts.as_micros()
    );
    Ok(Hit { at, epochs: vec![(part, second.epoch + 1)], text, complaint: None })
}

fn swap(instance: &Instance, event: &Event) -> Result<Hit> {
    // Mostly the encoder, which is what swaps are for.
    let part = if event.variant % 4 < 3 { Part::Encode } else { event.parts[0] };
    let epoch = instance.wait_for_holder(&lease(part), 0)?.epoch;
    let at = Instant::now();
    let gop = format!("encode.gop={}", 30 + event.variant % 200);
    let mut arguments = vec!["swap", part.short()];
    if part == Part::Encode {
        arguments.extend(["--set", &gop]);
    }
    let complaint = instance.command(&arguments).err().map(|error| format!("{error:#}"));
    let text = format!("swap of {}", part.short());
    let epoch = if complaint.is_some() { epoch } else { epoch + 1 };
    Ok(Hit { at, epochs: vec![(part, epoch)], text, complaint })
}

fn restart(instance: &Instance, event: &Event) -> Result<Hit> {
    let part = event.parts[0];
    let epoch = instance.wait_for_holder(&lease(part), 0)?.epoch;
    let at = Instant::now();
    let complaint = instance.command(&["restart", part.short()]).err().map(|error| format!("{error:#}"));
    Ok(Hit { at, epochs: vec![(part, epoch + 1)], text: format!("restart of {}", part.short()), complaint })
}

fn supervisor(instance: &mut Instance, event: &Event) -> Result<Hit> {
    let Some(victim) = instance.supervisor() else { bail!("There is no supervisor") };
    let at = Instant::now();
    // Its lock goes with it: an `up` before that is refused.
    victim.end();
    let mut text = format!("SIGKILL of the supervisor ({})", victim.pid);
    let mut epochs = Vec::new();
    if event.variant % 2 == 1 {
        let part = event.parts[0];
        let orphan = instance.wait_for_holder(&lease(part), 0)?;
        orphan.signal(Signal::KILL);
        text += &format!(" and of {} ({})", part.short(), orphan.pid);
        epochs.push((part, orphan.epoch + 1));
    }
    instance.up()?;
    Ok(Hit { at, epochs, text, complaint: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_judged_by_how_long_a_stop_was_and_not_by_how_long_it_was_to_be() {
        let of = |at_least: u64, at_most: u64, replaced| {
            let ms = Duration::from_millis;
            judge(ms(1000), (ms(at_least), ms(at_most)), replaced).is_some()
        };
        assert!(of(500, 501, true) && of(1701, 1702, false));
        assert!(!of(500, 501, false) && !of(1701, 1702, true));
        // Neither early nor late: the judge may be in doubt.
        assert!(!of(900, 901, true) && !of(1500, 1501, false));
        // A sleep of half a second that took two, and a look that took its time.
        assert!(!of(2000, 2001, true) && !of(500, 2000, true) && !of(500, 2000, false));
    }
}
