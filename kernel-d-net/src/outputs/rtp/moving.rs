//! Another destination for the running stream: its name is resolved beside the loop. A resolver that gets no answer
//! takes tens of seconds to say so, and the stream goes on where it goes meanwhile.

use kernel_host::config::HostPort;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// A destination on its way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Moving {
    wanted: Option<(HostPort, Receiver<Result<SocketAddr, String>>)>,
}

impl Moving {
    /// Has `resolve` find the address of `to`, which takes the place of any destination before it.
    pub fn begin(
        &mut self,
        to: &HostPort,
        resolve: impl FnOnce(&HostPort) -> Result<SocketAddr, String> + Send + 'static,
    ) {
        if self.wanted.as_ref().is_some_and(|(wanted, _)| wanted == to) {
            return;
        }
        let (send, receive) = channel();
        let name = to.clone();
        let spawned = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            // Nobody listens any more when yet another destination is wanted.
            let _ = send.send(resolve(&name));
        });
        match spawned {
            Ok(_) => self.wanted = Some((to.clone(), receive)),
            Err(error) => tracing::warn!(%error, "No thread to resolve a name: the destination was not changed"),
        }
    }

    /// No other destination is wanted any more.
    pub fn cancel(&mut self) {
        self.wanted = None;
    }

    /// What became of the destination, once that is known; never waits.
    pub fn arrived(&mut self) -> Option<(HostPort, Result<SocketAddr, String>)> {
        let (_, receive) = self.wanted.as_ref()?;
        let result = match receive.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err("The thread that resolves its name ended".to_owned()),
        };
        self.wanted.take().map(|(to, _)| (to, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn wait(moving: &mut Moving) -> (HostPort, Result<SocketAddr, String>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(arrived) = moving.arrived() {
                return arrived;
            }
            assert!(Instant::now() < deadline, "Nothing arrived");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_resolver_that_does_not_answer_holds_nobody_up_and_the_last_wish_counts() {
        let (slow, quick): (HostPort, HostPort) = ("slow:5004".parse().unwrap(), "127.0.0.1:5006".parse().unwrap());
        let address = quick.resolve().unwrap();
        let mut moving = Moving::default();
        assert!(moving.arrived().is_none());
        let (answer, question) = channel::<()>();
        moving.begin(&slow, move |_| {
            let _ = question.recv();
            Err("no answer".to_owned())
        });
        assert!(moving.arrived().is_none(), "this thread did not wait");
        // Wished for again: asked once.
        moving.begin(&slow, |_| panic!("asked twice"));
        moving.begin(&quick, |to| to.resolve().map_err(|error| error.to_string()));
        assert_eq!(wait(&mut moving), (quick, Ok(address)));
        drop(answer);
        assert!(moving.arrived().is_none());
        moving.begin(&slow, |_| Err("no answer".to_owned()));
        assert_eq!(wait(&mut moving), (slow.clone(), Err("no answer".to_owned())));
        moving.begin(&slow, |_| Err("no answer".to_owned()));
        moving.cancel();
        std::thread::sleep(Duration::from_millis(20));
        assert!(moving.arrived().is_none());
    }
}
