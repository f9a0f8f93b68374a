//! Xids: the errors of GPUs that NVIDIA's driver reports, and its lines about them in the kernel's log.

/// What the kernel's log says of an Xid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// The GPU's PCI address: domain, bus and device.
    pub address: [u32; 3],
    pub number: u64,
    /// The process whose work it was, if the driver knows.
    pub pid: Option<u32>,
    /// What else it says, without control characters.
    pub details: String,
}

/// Characters of the details that are kept.
const DETAILS_MAX: usize = 240;

/// How well-known Xids are explained, and whether what a program did is their usual cause.
const MEANINGS: [(u64, &str, bool); 28] = [
    (13, "exception in a kernel", true),
    (31, "access to memory that is not mapped", true),
    (32, "corrupted commands", true),
    (38, "firmware error", false),
    (43, "the work was ended after an error of its own", true),
    (45, "the work was ended after an earlier error", true),
    (48, "memory error that cannot be corrected", false),
    (61, "breakpoint of an internal processor", false),
    (62, "halt of an internal processor", false),
    (63, "faulty memory is replaced by spare rows", false),
    (64, "faulty memory cannot be replaced by spare rows", false),
    (68, "exception in the video decoder", true),
    (69, "exception in the graphics or compute engine", true),
    (74, "NVLink error", false),
    (79, "the GPU has fallen off the bus", false),
    (92, "high rate of corrected memory errors", false),
    (94, "memory error, contained to the work that met it", false),
    (95, "memory error that is not contained", false),
    (109, "a context switch takes too long", true),
    (110, "security fault", false),
    (119, "the GPU's system processor does not answer", false),
    (120, "error in the GPU's system processor", false),
    (121, "error of the link between chips", false),
    (123, "error in the power management processor", false),
    (137, "an access over NVLink that the other GPU refuses", true),
    (140, "memory error that is not recovered", false),
    (143, "the GPU cannot be initialised", false),
    (154, "the GPU needs a reset, or more", false),
];

/// What an Xid means, in short; `None` for one that is not well known.
pub fn meaning(number: u64) -> Option<&'static str> {
    let found = MEANINGS.iter().find(|(known, ..)| *known == number);
    found.map(|(_, meaning, _)| *meaning)
}

/// Whether an Xid is usually what a program did.
pub fn is_a_programs(number: u64) -> bool {
    MEANINGS
        .iter()
        .any(|(known, _, programs)| *known == number && *programs)
}

impl Xid {
    /// Reads a line of the kernel's log: a record of `/dev/kmsg`, or what comes behind its head. `None` for one that the
    /// driver did not write, or that is not about an Xid.
    ///
    /// The driver writes `NVRM: Xid (PCI:0000:00:06): 31, pid=571, name=fault, channel 0x1e, …`; on a GPU in MIG mode the
    /// instance follows the address. What the process calls itself comes behind its number, so that it cannot
    /// write another one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = String::from_utf8_lossy(line);
        let message = match line.split_once(';') {
            Some((head, message)) if is_head(head) => {
                // The facility, above the lowest three bits, is 0 for the kernel; programs cannot write it.
                let priority: u64 = head.split(',').next()?.parse().ok()?;
                if priority >> 3 != 0 {
                    return None;
                }
                message
            }
            _ => &line,
        };
        let rest = message.strip_prefix("NVRM: Xid (PCI:")?;
        let (place, rest) = rest.split_once(')')?;
        let rest = rest.strip_prefix(':')?.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, rest) = rest.split_at(digits);
        let details = rest.trim_start_matches(',').trim_start();
        let pid = details.strip_prefix("pid=").and_then(|pid| {
            let end = pid.find(|c: char| !c.is_ascii_digit()).unwrap_or(pid.len());
            pid[..end].parse().ok()
        });
        Some(Self {
            address: address(place.split_whitespace().next()?)?,
            number: number.parse().ok()?,
            pid,
            details: details
                .chars()
                .filter(|c| !c.is_control())
                .take(DETAILS_MAX)
                .collect(),
        })
    }
}

/// Whether that is the head of a record: "6,1234,5678901,-", maybe with more fields.
fn is_head(text: &str) -> bool {
    let mut fields = text.split(',');
    let is_number = |field: Option<&str>| {
        field.is_some_and(|field| !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit()))
    };
    is_number(fields.next())
        && is_number(fields.next())
        && is_number(fields.next())
        && fields.next().is_some()
}

/// "0000:00:06"
fn address(text: &str) -> Option<[u32; 3]> {
    let mut numbers = text.split(':').map(|part| u32::from_str_radix(part, 16).ok());
    let address = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAULT: &str = "NVRM: Xid (PCI:0000:00:06): 31, pid=571, name=fault, channel 0x0000001e, intr 00000000. \
                         MMU Fault: ENGINE GRAPHICS";

    #[test]
    fn the_drivers_lines_are_read() {
        let parse = |line: &str| Xid::parse(line.as_bytes()).map(|xid| (xid.address, xid.number, xid.pid));
        let fault = Some(([0, 0, 6], 31, Some(571)));
        assert_eq!(parse(FAULT), fault);
        assert_eq!(parse(&format!("4,1234,567890,-;{FAULT}")), fault);
        assert_eq!(parse(&format!("4,1234,567890,-,caller=T99;{FAULT}")), fault);
        assert_eq!(
            parse("NVRM: Xid (PCI:0001:b8:00 GPU-I:05): 94, pid=7, name=a"),
            Some(([1, 0xb8, 0], 94, Some(7)))
        );
        assert_eq!(
            parse(
                "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
            ),
            Some(([0, 0x3b, 0], 79, None))
        );
        assert_eq!(
            parse("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."),
            Some(([0, 0x3b, 0], 79, None))
        );
        // What a process calls itself is not its number, nor is what it writes into the log.
        assert_eq!(
            parse("NVRM: Xid (PCI:0000:00:06): 43, name=x, pid=1, Ch 0000"),
            Some(([0, 0, 6], 43, None))
        );
        for line in [
            "",
            "NVRM: Xid",
            "NVRM: Xid (PCI:0000:00:06): ",
            "NVRM: Xid (PCI:0000:00): 31, pid=1",
            "NVRM: Xid (PCI:0000:00:06:00): 31, pid=1",
            "NVRM: Xid (PCI:): 31, pid=1",
            "NVRM: Xid (PCI:0000:00:06) 31, pid=1",
            "NVRM: GPU 0000:00:06.0: RmInitAdapter failed!",
            &format!("a guest says: {FAULT}"),
            &format!("12,1234,567890,-;{FAULT}"),
            &format!("99999999999999999999,1,2,-;{FAULT}"),
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        let details = Xid::parse(b"NVRM: Xid (PCI:0000:00:06): 13, pid=1, a\x1b[31m\xff")
            .unwrap()
            .details;
        assert_eq!(details, "pid=1, a[31m\u{fffd}");
    }

    #[test]
    fn well_known_xids_have_a_meaning() {
        for number in [13, 31, 43, 45, 48, 63, 74, 79, 94, 95, 109, 119, 120] {
            assert!(meaning(number).is_some(), "{number}");
        }
        assert_eq!(meaning(9999), None);
        assert!(is_a_programs(31) && !is_a_programs(79) && !is_a_programs(9999));
        assert!(MEANINGS.is_sorted_by_key(|(number, ..)| number));
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line: Vec<u8>, at in 0..FAULT.len(), put: Vec<u8>) {
            let _ = Xid::parse(&line);
            // Nearly right ones.
            let bytes = FAULT.as_bytes();
            let spliced = [&bytes[..at], &put, &bytes[at..]].concat();
            if let Some(xid) = Xid::parse(&spliced) {
                prop_assert!(xid.details.chars().count() <= DETAILS_MAX);
                prop_assert!(!xid.details.contains(char::is_control));
            }
            let _ = Xid::parse(&bytes[..at]);
        }

        #[test]
        fn what_is_written_is_read(
            address: [u16; 3],
            number: u32,
            pid: Option<u32>,
            name in "[ -~]{0,16}",
        ) {
            let [domain, bus, device] = address.map(u32::from);
            let who = pid.map_or("'<unknown>'".to_owned(), |pid| pid.to_string());
            let line = format!("NVRM: Xid (PCI:{domain:04x}:{bus:02x}:{device:02x}): {number}, pid={who}, name={name}");
            let xid = Xid::parse(line.as_bytes()).unwrap();
            prop_assert_eq!(xid.address, [domain, bus, device]);
            prop_assert_eq!((xid.number, xid.pid), (u64::from(number), pid));
        }
    }
}
