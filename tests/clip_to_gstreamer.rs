//! Real film through all four processes into GStreamer, with and without a jitter buffer.

use system_tests::film::receive_every_frame;
use system_tests::receiver::Receiver;

fn receive(test: &str, elements: &str) {
    receive_every_frame(test, &["ffmpeg", "gst-launch-1.0"], |folder, port, width, height| {
        Receiver::gstreamer(folder, port, elements, width, height)
    });
}

#[test]
fn gstreamer_receives_every_frame_of_the_clip_once_and_in_order() {
    receive("clip_to_gstreamer", "rtpjitterbuffer");
}

#[test]
fn gstreamer_with_rtpbin_receives_every_frame_of_the_clip_once_and_in_order() {
    receive("clip_to_gstreamer with rtpbin", "rtpbin");
}
