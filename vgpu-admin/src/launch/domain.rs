//! What a libvirt domain needs for a virtual GPU: those parts of the whole domain in `qemu-configs`, for another socket.
use roxmltree::Document;
use std::borrow::Cow;

/// A whole domain, of VM 3.
const EXAMPLE: &str = include_str!("../../../qemu-configs/libvirt-domain.xml");
/// Where its backend listens.
const EXAMPLE_SOCKET: &str = "/run/vgpu/vm3/vgpu.sock";
/// libvirt's namespace for what it hands on to QEMU as it is.
pub const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// The slot of the root bus that is free in domains that libvirt laid out.
const SLOT: &str = "addr=0x1e";
/// The elements that a domain of somebody else's lacks.
const PARTS: [&str; 3] = ["memoryBacking", "devices", "qemu:commandline"];

/// The parts for a VM whose backend listens there, where a comma would end the path for QEMU, in a domain of their own that has nothing else.
pub fn domain(vm: u32, socket: &str) -> String {
    let root = EXAMPLE.lines().find(|line| line.starts_with("<domain "));
    let mut text = format!(
        "<!-- For the domain of VM {vm}: the namespace qemu of <domain>, and these parts beside those that it has. -->\n{}\n",
        root.unwrap_or_default()
    );
    for part in PARTS {
        for line in element(part) {
            text += &line.replace(EXAMPLE_SOCKET, &escaped(&socket.replace(',', ",,")));
            text.push('\n');
        }
    }
    text + "</domain>\n"
}

/// What QEMU is told, for a machine that may have no PCI Express: the device is in a slot of the root bus.
pub fn arguments_without_root_port(socket: &str) -> Vec<String> {
    let document = Document::parse(EXAMPLE).expect("the documented domain is XML");
    let values: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name((QEMU, "arg")))
        .filter_map(|node| node.attribute("value"))
        .collect();
    let pairs = values
        .chunks(2)
        .filter(|pair| pair.iter().all(|value| !value.starts_with("pcie-root-port,")));
    let own = |value: &&str| {
        let value = value.replace(EXAMPLE_SOCKET, &socket.replace(',', ",,"));
        match value.replace("bus=vgpu-port,", "") {
            device if device != value => format!("{device},{SLOT}"),
            other => other,
        }
    };
    pairs.flatten().map(own).collect()
}

/// The lines of an element of the domain.
fn element(name: &str) -> impl Iterator<Item = &'static str> {
    let (begin, end) = (format!("  <{name}>"), format!("  </{name}>"));
    let mut ended = false;
    EXAMPLE
        .lines()
        .skip_while(move |line| *line != begin)
        .take_while(move |line| !std::mem::replace(&mut ended, *line == end))
}

/// A text in an attribute.
pub fn escaped(text: &str) -> String {
    let escape = |char| match char {
        '&' => Cow::Borrowed("&amp;"),
        '<' => "&lt;".into(),
        '\'' => "&apos;".into(),
        '"' => "&quot;".into(),
        other => String::from(other).into(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::Node;

    fn elements<'a, 'input>(node: Node<'a, 'input>) -> Vec<Node<'a, 'input>> {
        node.children().filter(Node::is_element).collect()
    }

    /// An element with all that is in it, whatever its layout.
    fn said(node: Node<'_, '_>) -> String {
        let attributes: Vec<String> = node
            .attributes()
            .map(|one| format!("{}={}", one.name(), one.value()))
            .collect();
        let inside: String = elements(node).into_iter().map(said).collect();
        format!("<{:?} {attributes:?}>{inside}</>", node.tag_name())
    }

    /// What is printed for the VM of the documented domain is in it, to the letter.
    #[test]
    fn it_says_what_the_documented_domain_says() {
        let text = domain(3, EXAMPLE_SOCKET);
        let (own, documented) = (Document::parse(&text).unwrap(), Document::parse(EXAMPLE).unwrap());
        let of_documented: Vec<String> = elements(documented.root_element())
            .into_iter()
            .map(said)
            .collect();
        let parts = elements(own.root_element());
        let names: Vec<&str> = parts.iter().map(|part| part.tag_name().name()).collect();
        assert_eq!(names, ["memoryBacking", "devices", "commandline"]);
        for part in parts {
            assert!(of_documented.contains(&said(part)), "{}", said(part));
        }
        let qemu = own.root_element().lookup_namespace_uri(Some("qemu"));
        assert_eq!(qemu, documented.root_element().lookup_namespace_uri(Some("qemu")));
        assert!(qemu.is_some());
        // The rest of it is what each domain has of its own.
        let others = elements(documented.root_element());
        let others = others.iter().map(|other| other.tag_name().name());
        let others: Vec<&str> = others.filter(|name| !names.contains(name)).collect();
        assert_eq!(others, ["name", "memory", "vcpu", "os", "features"]);
    }

    #[test]
    fn each_vm_has_its_own_socket_whatever_its_name() {
        let text = domain(9, "/run/o'ne, <two> & \"three\".sock");
        assert!(!text.contains(EXAMPLE_SOCKET) && text.contains("VM 9:"), "{text}");
        let document = Document::parse(&text).unwrap();
        let values: Vec<&str> = document
            .descendants()
            .filter_map(|node| node.attribute("value"))
            .collect();
        assert_eq!(
            values[1],
            "socket,id=vgpu,path=/run/o'ne,, <two> & \"three\".sock"
        );
        assert_eq!((values[0], values.len()), ("-chardev", 6));
    }
}
