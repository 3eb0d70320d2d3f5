//! iceoryx2's publish-subscribe, polled, and its event for a sleeping reader.

use super::child::Job;
use super::hand::{Hand, Side};
use super::page::Page;
use anyhow::{Result, anyhow, bail};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections as _;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use std::mem::MaybeUninit;

type Service = ipc::Service;

/// How it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Default settings, polled: one message on its way.
    Polling,
    /// A notification for each message, the reader sleeps.
    Sleeping,
}

/// One end of two services.
pub struct Iceoryx {
    // Dropped in this order: samples before ports, ports before the node.
    loan: Option<SampleMutUninit<Service, MaybeUninit<u64>, ()>>,
    sample: Option<Sample<Service, u64, ()>>,
    publisher: Publisher<Service, u64, ()>,
    subscriber: Subscriber<Service, u64, ()>,
    events: Option<(Notifier<Service>, Listener<Service>)>,
    #[expect(dead_code, reason = "ends after its ports")]
    node: Node<Service>,
}

fn failed(what: &'static str) -> impl Fn(&dyn std::fmt::Debug) -> anyhow::Error {
    move |error| anyhow!("iceoryx2, {what}: {error:?}")
}

impl Iceoryx {
    /// Opens both services; the two processes meet on the way.
    pub fn open(job: &Job, page: &Page, usage: Use) -> Result<Iceoryx> {
        let instance = job.instance.as_str();
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        // Its files are told apart from those of any other program, and can be removed after a death.
        config.global.prefix = FileName::new(file_prefix(instance).as_bytes()).map_err(|e| failed("prefix")(&e))?;
        let root = job.dir.join("iceoryx2");
        config.global.set_root_path(&Path::new(root.as_os_str().as_encoded_bytes()).map_err(|e| failed("root")(&e))?);
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<Service>()
            .map_err(|e| failed("node")(&e))?;
        let service = |side: Side| {
            let name = format!("{instance}/{usage:?}/{side:?}");
            let name: ServiceName = name.as_str().try_into().map_err(|e| failed("name")(&e))?;
            node.service_builder(&name).publish_subscribe::<u64>().open_or_create().map_err(|e| failed("service")(&e))
        };
        let (own, other) = (service(page.side())?, service(page.side().other())?);
        let publisher = own.publisher_builder().create().map_err(|e| failed("publisher")(&e))?;
        let subscriber = other.subscriber_builder().create().map_err(|e| failed("subscriber")(&e))?;
        let event = |side: Side| {
            let name = format!("{instance}/event/{side:?}");
            let name: ServiceName = name.as_str().try_into().map_err(|e| failed("name")(&e))?;
            node.service_builder(&name).event().open_or_create().map_err(|e| failed("event")(&e))
        };
        let events = if usage == Use::Sleeping {
            let own = event(page.side())?;
            let other = event(page.side().other())?;
            let notifier = own.notifier_builder().create().map_err(|e| failed("notifier")(&e))?;
            Some((notifier, other.listener_builder().create().map_err(|e| failed("listener")(&e))?))
        } else {
            None
        };
        page.meet();
        publisher.update_connections().map_err(|e| failed("connections")(&e))?;
        page.meet();
        Ok(Iceoryx { loan: None, sample: None, publisher, subscriber, events, node })
    }
}

impl Hand for Iceoryx {
    fn prepare(&mut self) -> Result<()> {
        if self.loan.is_none() {
            self.loan = Some(self.publisher.loan_uninit().map_err(|e| failed("loan")(&e))?);
        }
        Ok(())
    }

    fn send(&mut self, value: u64) -> Result<()> {
        self.prepare()?;
        let Some(loan) = self.loan.take() else { bail!("No loan") };
        loan.write_payload(value).send().map_err(|e| failed("send")(&e))?;
        if let Some((notifier, _)) = &self.events {
            notifier.notify().map_err(|e| failed("notify")(&e))?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        loop {
            if let Some(sample) = self.subscriber.receive().map_err(|e| failed("receive")(&e))? {
                let value = *sample;
                self.sample = Some(sample);
                return Ok(value);
            }
            match &self.events {
                Some((_, listener)) => {
                    listener.blocking_wait(|_| {}).map_err(|e| failed("wait")(&e))?;
                }
                None => std::hint::spin_loop(),
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.sample = None;
        Ok(())
    }
}

/// Prefix of iceoryx2's files for this run.
pub fn file_prefix(instance: &str) -> String {
    format!("iox2_{instance}_")
}
