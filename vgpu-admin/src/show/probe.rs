//! What holds on each GPU.
use super::{Screen, latency, moment, printable};
use vgpu_sched_api::messages::GpuRungs;

/// The means of preemption, as sessions proved them.
pub fn probe(gpus: &[GpuRungs], screen: Screen) -> String {
    if gpus.is_empty() {
        return "There is no GPU.\n".to_owned();
    }
    let mut table = screen.table(&["GPU", "slices", ">stop,\nresume", "by vgpud", "suspend"]);
    for gpu in gpus {
        let when = match gpu.proved_s {
            None => "not tried yet: no session ran on it".to_owned(),
            Some(at) => format!("driver {}, {}", printable(&gpu.driver), moment(at)),
        };
        let holds = |holds: bool, how: &str| match (gpu.proved_s, holds) {
            (None, _) => "-".to_owned(),
            (Some(_), true) => how.to_owned(),
            (Some(_), false) => "no".to_owned(),
        };
        table.add_row([
            format!("{}\n{when}", printable(&gpu.uuid)),
            holds(gpu.slices, "yes"),
            holds(
                gpu.stop,
                &format!("{}\n{}", latency(gpu.stop_us), latency(gpu.resume_us)),
            ),
            holds(gpu.stop_by_vgpud, "yes"),
            holds(gpu.suspend, "yes"),
        ]);
    }
    table.written()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SCREEN, fits};
    use super::*;

    #[test]
    fn what_holds_is_told() {
        let new = GpuRungs {
            uuid: "GPU-76677075-736f-6674-8000-0001ba646770".to_owned(),
            ..GpuRungs::default()
        };
        let proved = GpuRungs {
            uuid: "GPU-76677075-736f-6674-8000-0000ba646770".to_owned(),
            driver: "580.159.04".to_owned(),
            proved_s: Some(1_700_000_000),
            slices: true,
            stop: true,
            stop_us: 600,
            resume_us: 99_900,
            suspend: false,
            stop_by_vgpud: true,
        };
        let text = probe(&[proved, new], SCREEN);
        fits(&text);
        let expected = "\
GPU                                       slices   stop,  by vgpud  suspend
                                                  resume
────────────────────────────────────────────────────────────────────────────
GPU-76677075-736f-6674-8000-0000ba646770  yes      600us  yes       no
driver 580.159.04, 2023-11-14T22:13:20Z           99.9ms
GPU-76677075-736f-6674-8000-0001ba646770  -            -  -         -
not tried yet: no session ran on it
";
        assert_eq!(text, expected);
    }
}
