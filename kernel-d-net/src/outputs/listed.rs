//! What this kernel sends and where, written down for the status, in the runtime directory.

use super::http::HttpOutput;
use super::rtp::stream::RtpStream;
use crate::files;
use kernel_host::kernel::Kernel;
use kernel_host::status::{self, OutputStatus, watch_url};

/// Lists the outputs.
pub fn list(kernel: &Kernel, stream: Option<&RtpStream>, page: Option<&HttpOutput>) {
    let http = page.map(|p| OutputStatus::new("http", watch_url(p.local_addr())));
    write(kernel, &stream.map(rtp).into_iter().chain(http).collect::<Vec<_>>());
}

/// The RTP stream goes elsewhere or has another codec; the others are as they were.
pub fn relist(kernel: &Kernel, stream: &RtpStream) {
    let path = kernel.runtime.path().join(status::outputs_file(&kernel.name));
    let known = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Vec<OutputStatus>>(&text).ok());
    let others = known.unwrap_or_default().into_iter().filter(|output| output.kind != RTP);
    write(kernel, &std::iter::once(rtp(stream)).chain(others).collect::<Vec<_>>());
}

const RTP: &str = "rtp";

fn rtp(stream: &RtpStream) -> OutputStatus {
    OutputStatus {
        sdp: Some(stream.sdp_path().display().to_string()),
        codec: stream.codec().map(|codec| codec.name().to_owned()),
        note: stream.note(),
        ..OutputStatus::new(RTP, stream.url())
    }
}

fn write(kernel: &Kernel, outputs: &[OutputStatus]) {
    let path = kernel.runtime.path().join(status::outputs_file(&kernel.name));
    let text = serde_json::to_string(outputs).unwrap_or_default();
    if let Err(error) = files::replace(&path, &text) {
        tracing::warn!(%error, path = %path.display(), "The list of outputs could not be written");
    }
}
