//! A stream of text, cut into lines of a bounded length.

/// The line that is not complete yet.
#[derive(Debug)]
pub struct Lines {
    most: usize,
    begun: Vec<u8>,
    /// It is longer than that already.
    overlong: bool,
}

impl Lines {
    /// Lines of so many bytes at most; longer ones are left out.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            begun: Vec::new(),
            overlong: false,
        }
    }

    /// The lines that these bytes complete, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.begun.len() + part.len() > self.most {
                self.overlong = true;
                self.begun.clear();
            }
            if !self.overlong {
                self.begun.extend_from_slice(part);
            }
            if parts.peek().is_some() {
                let line = std::mem::take(&mut self.begun);
                if !std::mem::take(&mut self.overlong) {
                    complete.push(line);
                }
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_long_ones_not_at_all() {
        let mut lines = Lines::new(4);
        let mut push = |text: &str| -> Vec<String> {
            let complete = lines.push(text.as_bytes());
            let text = |line| String::from_utf8(line).unwrap();
            complete.into_iter().map(text).collect()
        };
        assert_eq!(push("ab"), [""; 0]);
        assert_eq!(push(""), [""; 0]);
        assert_eq!(push("cd\n\nx\ny"), ["abcd", "", "x"]);
        assert_eq!(push("\n12345\n1234\n123"), ["y", "1234"]);
        assert_eq!(push("45"), [""; 0]);
        assert_eq!(push("6789\nok\n"), ["ok"]);
    }
}
