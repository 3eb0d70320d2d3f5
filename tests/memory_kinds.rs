//! What the pixel buffers are made of makes no difference to the stream, and what cannot be had is refused.

use std::path::Path;
use std::time::Duration;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_memfd_pool_outlives_the_kernel_that_made_it() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new("memfd", port);
    pipeline.set("capture.memory", "memfd").set("capture.fps", "30");
    pipeline.start_all();
    assert!(within(PATIENCE, || wire.units() >= 30), "{}", pipeline.logs());
    let pools =
        |pipeline: &Pipeline| pipeline.objects().iter().filter(|name| name.contains("capture.main.pool")).count();
    assert_eq!(pools(&pipeline), 0, "a memfd has no name");
    for part in [Part::Capture, Part::Process, Part::Encode] {
        let before = wire.units();
        pipeline.kill(part);
        pipeline.start(part);
        assert!(within(PATIENCE, || wire.units() >= before + 30), "{part:?}: {}", pipeline.logs());
    }
    // Its successor got the memory back from a kernel that still had it.
    let path = pipeline.status().map(|status| status["kernels"]["capture"]["path"].to_string()).unwrap_or_default();
    assert!(path.contains("memfd") && path.contains("pool reused"), "{path}");
    pipeline.stop();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults::default());
}

#[test]
fn dma_buf_memory_is_refused_with_the_cure_where_there_is_none() {
    if Path::new("/dev/udmabuf").exists() {
        return; // then it works, and the memfd test's way is its way
    }
    let mut pipeline = Pipeline::new("dmabuf", free_rtp_port());
    pipeline.set("capture.memory", "dma-buf");
    pipeline.start(Part::Capture);
    let ended = pipeline.wait(Part::Capture, PATIENCE);
    assert_eq!(ended.and_then(|status| status.code()), Some(69), "{}", pipeline.logs());
    let log = pipeline.log(Part::Capture);
    assert!(log.contains("/dev/udmabuf") && log.contains("memory = \"memfd\""), "{log}");
}
