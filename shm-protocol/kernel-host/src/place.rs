//! Automatic placement: which cpus each kernel runs on when the configuration does not say.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::name::{KernelName, Kind};
use crate::pin::CpuSet;

/// Cpus one encoder gets at the most without being told: beyond four a software encoder in low-latency mode gains
/// little from more slices, and what is left over serves a second instance.
pub const ENCODER_CPUS: usize = 4;

/// Below this many cpus the light kernels share one: the encoder is the only stage that fills a core.
const CPUS_TO_SPREAD: usize = 4;

/// One kernel to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Which kernel.
    pub kernel: KernelName,
    /// The cpus it was told to run on; `None` places it.
    pub told: Option<CpuSet>,
}

/// The kernels of a configuration with what they were told.
pub fn demands(config: &Config) -> Vec<Demand> {
    config.kernels().into_iter().map(|kernel| Demand { told: config.cpus(&kernel).cloned(), kernel }).collect()
}

/// Places kernels on cpus: a pure function, so that every kernel and the supervisor come to the same answer.
///
/// `foreign` holds the cpus of each kernel of other instances on this machine; cpus free of them go first. On two
/// cpus capture, process and net share the lower one and encode has the other; from four on the light kernels spread
/// over up to half of the cpus, in the order of the chain, and encoders divide the rest.
///
/// Kernels that were told get what they were told. `online` must not be empty; an empty one places nowhere, which
/// leaves a kernel unpinned.
pub fn place(online: &CpuSet, demands: &[Demand], foreign: &[CpuSet]) -> BTreeMap<KernelName, CpuSet> {
    let mut placed: BTreeMap<KernelName, CpuSet> =
        demands.iter().filter_map(|d| Some((d.kernel.clone(), d.told.clone()?))).collect();
    let (encoders, light): (Vec<_>, Vec<_>) =
        demands.iter().filter(|d| d.told.is_none()).map(|d| &d.kernel).partition(|k| k.kind == Kind::Encode);

    // The most used first: light kernels take from the front, encoders from the back.
    let used = |cpu: usize| foreign.iter().chain(placed.values()).filter(|set| set.contains(cpu)).count();
    let mut cpus: Vec<(usize, usize)> = online.iter().map(|cpu| (used(cpu), cpu)).collect();
    cpus.sort_by_key(|(used, cpu)| (std::cmp::Reverse(*used), *cpu));
    let free = cpus.iter().filter(|(used, _)| *used == 0).count();
    // One free cpu is not enough to stand alone on when there are both kinds to place: the light ones then share.
    let enough = if light.is_empty() || encoders.is_empty() { 1 } else { 2 };
    let cpus: Vec<usize> =
        cpus.into_iter().filter(|(used, _)| free < enough || *used == 0).map(|(_, cpu)| cpu).collect();
    if cpus.is_empty() {
        return placed;
    }

    let for_light = match cpus.len() {
        _ if encoders.is_empty() => cpus.len().min(light.len()),
        n if n < CPUS_TO_SPREAD => 1,
        n => light.len().min(n / 2),
    };
    for (index, kernel) in light.iter().enumerate() {
        let cpu = cpus[index * for_light / light.len()];
        placed.insert((*kernel).clone(), CpuSet::from_iter([cpu]));
    }

    // One cpu only: everybody shares it.
    let taken = if light.is_empty() || cpus.len() == 1 { 0 } else { for_light };
    let rest = &cpus[taken..];
    let each = (rest.len() / encoders.len().max(1)).clamp(1, ENCODER_CPUS);
    for (index, kernel) in encoders.iter().enumerate() {
        // From the back, round again when there are more encoders than cpus.
        let set = (0..each).map(|i| rest[rest.len() - 1 - (index * each + i) % rest.len()]).collect();
        placed.insert((*kernel).clone(), set);
    }
    placed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpus(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn shown(online: &str, config: &Config, foreign: &[&str]) -> String {
        let foreign: Vec<CpuSet> = foreign.iter().map(|f| cpus(f)).collect();
        let placed = place(&cpus(online), &demands(config), &foreign);
        placed.iter().map(|(k, set)| format!("{}={set}", k.short())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_encoder_has_a_core_of_its_own_from_two_on() {
        let config = Config::default();
        assert_eq!(shown("0", &config, &[]), "capture=0 process=0 encode=0 net=0");
        assert_eq!(shown("0-1", &config, &[]), "capture=0 process=0 encode=1 net=0");
        assert_eq!(shown("0-2", &config, &[]), "capture=0 process=0 encode=1-2 net=0");
        assert_eq!(shown("0-3", &config, &[]), "capture=0 process=0 encode=2-3 net=1");
        assert_eq!(shown("0-7", &config, &[]), "capture=0 process=1 encode=4-7 net=2");
        assert_eq!(shown("4,9", &config, &[]), "capture=4 process=4 encode=9 net=4");
        assert_eq!(shown("", &config, &[]), "");
    }

    #[test]
    fn a_second_instance_gets_the_free_cores_first() {
        let config = Config::default();
        let first = ["0", "1", "2", "4-7"];
        // Free are 3, 8, 9, 10 and 11: two for the light kernels, three for the encoder.
        assert_eq!(shown("0-11", &config, &first), "capture=3 process=3 encode=9-11 net=8");
        // One free core: the encoder has it.
        assert_eq!(shown("0-2", &config, &["0", "1"]), "capture=0 process=0 encode=1-2 net=0");
        // None free: as alone, on the least used.
        assert_eq!(shown("0-1", &config, &["0", "1", "1"]), "capture=1 process=1 encode=0 net=1");
    }

    #[test]
    fn who_was_told_stays_and_the_others_keep_off() {
        let config = Config::load(None, &["encode.cpus=0".to_owned()]).unwrap();
        assert_eq!(shown("0-1", &config, &[]), "capture=1 process=1 encode=0 net=1");
        let config = Config::load(None, &["capture.cpus=3".to_owned()]).unwrap();
        assert_eq!(shown("0-3", &config, &[]), "capture=3 process=0 encode=1-2 net=0");
    }

    #[test]
    fn encoders_divide_what_is_left() {
        let config = Config::from_toml("[encode.instances.web]").unwrap();
        assert_eq!(shown("0-7", &config, &[]), "capture=0 process=1 encode=6-7 encode.web=4-5 net=2");
        assert_eq!(shown("0-1", &config, &[]), "capture=0 process=0 encode=1 encode.web=1 net=0");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_kernel_gets_online_cpus(
            online in proptest::collection::btree_set(0usize..64, 1..16),
            foreign in proptest::collection::vec(proptest::collection::btree_set(0usize..64, 0..8), 0..6),
            webs in 0usize..6,
        ) {
            let text: String = (0..webs).map(|i| format!("[encode.instances.w{i}]\n[process.instances.p{i}]\n")).collect();
            let config = Config::from_toml(&text).unwrap();
            let online = CpuSet::from_iter(online);
            let foreign: Vec<CpuSet> = foreign.into_iter().map(CpuSet::from_iter).collect();
            let placed = place(&online, &demands(&config), &foreign);
            prop_assert_eq!(placed.len(), config.kernels().len());
            for (kernel, set) in &placed {
                prop_assert!(!set.is_empty() && set.iter().all(|c| online.contains(c)), "{}: {}", kernel, set);
                prop_assert!(kernel.kind == Kind::Encode && set.len() <= ENCODER_CPUS || set.len() == 1);
            }
        }
    }
}
