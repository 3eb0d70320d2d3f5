//! The ring loop of kernel D: take an access unit, send it everywhere, release it when it is out.

use crate::configured::refuse_absent;
use crate::feed::{Feed, Outlet};
use crate::outputs::http::{HttpConfig, HttpError, HttpOutput, HttpRuntime, StatusSource};
use crate::outputs::listed::list;
use crate::outputs::rtp::stream::RtpStream;
use crate::warm::Warm;
use kernel_host::args::KernelArgs;
use kernel_host::config::{Config, Http};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::Kernel;
use kernel_host::name::{KernelName, Kind};
use kernel_host::runtime::RuntimeDir;
use kernel_host::status;
use shm_protocol::input::Consumer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs kernel D until it is asked to end.
///
/// # Errors
/// [`Failure`] with the exit code for the supervisor.
pub fn run(args: &KernelArgs) -> Result<(), Failure> {
    let mut warm = Warm::default();
    match Kernel::start(args, Kind::Net, &mut warm)? {
        Some(kernel) => kernel.serve(|kernel| net(kernel, &mut warm)),
        None => Ok(()),
    }
}

/// The status of the instance, for the watch page.
struct InstanceStatus {
    config: Config,
    runtime: RuntimeDir,
}

impl StatusSource for InstanceStatus {
    fn status_json(&self) -> serde_json::Value {
        let status = status::collect(self.runtime.instance(), Some(&self.config), Some(&self.runtime));
        serde_json::to_value(&status).unwrap_or_default()
    }
}

fn start_http(
    kernel: &Kernel,
    http: &Http,
    runtime: Option<HttpRuntime>,
    wanted: Arc<AtomicBool>,
) -> Result<Arc<HttpOutput>, Failure> {
    let mut config = HttpConfig::new(http.listen);
    config.token = http.token.as_ref().map(|token| token.expose().to_owned());
    config.allowed_hosts =
        http.allowed_hosts.iter().flat_map(|hosts| hosts.split(',')).map(|host| host.trim().to_owned()).collect();
    let status = Arc::new(InstanceStatus { config: kernel.config.clone(), runtime: kernel.runtime.clone() });
    let request = Arc::new(move || wanted.store(true, Ordering::Relaxed));
    let started = match runtime {
        Some(runtime) => HttpOutput::start_in(runtime, config, status, request),
        None => HttpOutput::start(config, status, request),
    };
    started.map(Arc::new).map_err(|error| match error {
        // Whoever has the port may go: worth another try, unlike a wrong key.
        HttpError::AddressInUse { .. } => Failure::new(Exit::Unavailable, error),
        error => Failure::recover(error.recovery(), error),
    })
}

fn net(kernel: &mut Kernel, warm: &mut Warm) -> Result<(), Failure> {
    let Some(net) = kernel.config.net(&kernel.name.name).cloned() else { return Ok(()) };
    refuse_absent(&net)?;
    let input = |name: &str| KernelName::new(Kind::Encode, name).map_err(Failure::from);
    let rtp = net.rtp.as_ref().filter(|o| o.enabled);
    let http = net.http.as_ref().filter(|o| o.enabled);
    let rtp_from = rtp.map(|o| input(o.encode_name())).transpose()?;
    let http_from = http.map(|o| input(o.encode_name())).transpose()?;
    let idr_wanted = Arc::new(AtomicBool::new(false));
    let stream = match (rtp, &rtp_from) {
        (Some(rtp), Some(from)) => Some(RtpStream::open(kernel, rtp, &net, from)?),
        _ => None,
    };
    let page = http.map(|http| start_http(kernel, http, warm.runtime.take(), Arc::clone(&idr_wanted))).transpose()?;
    kernel.telemetry.set_backend("udp");
    list(kernel, stream.as_ref(), page.as_deref());
    let same = rtp_from == http_from;
    let main_from = rtp_from.or_else(|| http_from.clone());
    let Some(main_from) = main_from else {
        return idle(kernel);
    };
    // Attached before anybody is told that this kernel runs: what is published from now on reaches it.
    let Some(consumer) = kernel.attach(&main_from)? else { return Ok(()) };
    let second = match (&http_from, same || stream.is_none()) {
        (Some(from), false) => kernel.attach(from)?,
        _ => None,
    };
    kernel.running();
    let own_page = if second.is_none() { page.clone() } else { None };
    if let (Some(consumer), Some(page)) = (second, page) {
        spawn_page_feed(consumer, page, Arc::clone(&idr_wanted))?;
    }
    let wanted = own_page.is_some().then_some(idr_wanted);
    Feed::new(consumer, Outlet { rtp: stream, page: own_page, idr_wanted: wanted }).run(kernel)
}

/// The watch page of another encode instance than RTP's has a thread of its own: it must not hold RTP up.
fn spawn_page_feed(consumer: Consumer, page: Arc<HttpOutput>, wanted: Arc<AtomicBool>) -> Result<(), Failure> {
    let mut feed = Feed::new(consumer, Outlet { rtp: None, page: Some(page), idr_wanted: Some(wanted) });
    std::thread::Builder::new()
        .name("page-feed".to_owned())
        .spawn(move || {
            // Ends with the process, or when the ring is lost: the main loop then meets the same and ends it.
            while let Ok(()) = feed.turn_alone() {}
        })
        .map(|_| ())
        .map_err(|error| Failure::new(Exit::Internal, error))
}

fn idle(kernel: &mut Kernel) -> Result<(), Failure> {
    kernel.running();
    tracing::warn!("No output is enabled");
    while kernel.turn()? {
        kernel.stop.wait(std::time::Duration::from_millis(20));
    }
    Ok(())
}
