//! What a pickle would call if Python loaded it.
//!
//! Our reader executes nothing; but a checkpoint that would run a command elsewhere is no
//! checkpoint, and is refused.

use std::collections::HashMap;

/// What PyTorch's own state dicts name: module, and a name or how it ends.
const HARMLESS: [(&str, &str); 16] = [
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch", "Storage"),
    ("torch.storage", "Storage"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("builtins", "set"),
];

/// Checks the pickles at the start of `bytes`, `count` of them one after another.
///
/// The error says what they name that a model's weights do not need.
pub(super) fn check(bytes: &[u8], count: usize) -> Result<(), String> {
    let mut scan = Scan {
        bytes,
        at: 0,
        strings: Vec::new(),
        memo: HashMap::new(),
    };
    for _ in 0..count {
        scan.strings.clear();
        scan.memo.clear();
        scan.run()?;
    }
    Ok(())
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What was pushed last: a string, or something else.
    strings: Vec<Option<&'a str>>,
    memo: HashMap<usize, Option<&'a str>>,
}

impl<'a> Scan<'a> {
    /// Until the end of this pickle.
    fn run(&mut self) -> Result<(), String> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return Ok(()),
                b'c' | b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    is_harmless(Some(module), Some(name))?;
                    self.strings.push(None);
                }
                0x93 => {
                    let name = self.strings.pop().flatten();
                    let module = self.strings.pop().flatten();
                    is_harmless(module, name)?;
                    self.strings.push(None);
                }
                0x82..=0x84 => return Err("it calls what an extension registry names".into()),
                b'U' | b'C' | 0x8c | 0x8a => self.sized(1, matches!(opcode, b'U' | 0x8c))?,
                b'T' | b'X' | b'B' | 0x8b => self.sized(4, matches!(opcode, b'T' | b'X'))?,
                0x8d | 0x8e | 0x96 => self.sized(8, opcode == 0x8d)?,
                b'S' | b'V' => {
                    let line = self.line()?;
                    self.strings.push(Some(line));
                }
                b'F' | b'I' | b'L' | b'P' => {
                    self.line()?;
                    self.strings.push(None);
                }
                b'g' | b'p' => {
                    let index = self.line()?.parse().map_err(|_| "not a pickle")?;
                    self.remember(index, opcode == b'g');
                }
                b'q' | b'h' => {
                    let index = usize::from(self.take(1)?[0]);
                    self.remember(index, opcode == b'h');
                }
                b'r' | b'j' => {
                    let index = self.number(4)?;
                    self.remember(index, opcode == b'j');
                }
                0x94 => self.remember(self.memo.len(), false),
                b'K' => self.skip(1)?,
                b'M' => self.skip(2)?,
                b'J' => self.skip(4)?,
                b'G' => self.skip(8)?,
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'('
                | b'0'
                | b'1'
                | b'2'
                | b'N'
                | b'R'
                | b'Q'
                | b'a'
                | b'b'
                | b'd'
                | b'e'
                | b'l'
                | b'o'
                | b's'
                | b't'
                | b'u'
                | b']'
                | b'}'
                | b')'
                | 0x81
                | 0x85..=0x89
                | 0x8f..=0x92
                | 0x97
                | 0x98 => self.strings.push(None),
                _ => return Err("not a pickle".into()),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self
            .at
            .checked_add(count)
            .filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("the pickle is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A value that is no string.
    fn skip(&mut self, count: usize) -> Result<(), String> {
        self.take(count)?;
        self.strings.push(None);
        Ok(())
    }

    fn number(&mut self, bytes: usize) -> Result<usize, String> {
        let little_endian = self.take(bytes)?.iter().rev();
        Ok(little_endian.fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// A value whose length stands before it.
    fn sized(&mut self, bytes: usize, is_string: bool) -> Result<(), String> {
        let length = self.number(bytes)?;
        let value = self.take(length)?;
        self.strings
            .push(std::str::from_utf8(value).ok().filter(|_| is_string));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(length.ok_or("the pickle is cut short")?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "not a pickle".into())
    }

    /// Reads the memo, or writes what was pushed last to it.
    fn remember(&mut self, index: usize, read: bool) {
        if read {
            self.strings.push(self.memo.get(&index).copied().flatten())
        } else {
            self.memo
                .insert(index, self.strings.last().copied().flatten());
        }
    }
}

fn is_harmless(module: Option<&str>, name: Option<&str>) -> Result<(), String> {
    let (module, name) = (module.unwrap_or("?"), name.unwrap_or("?"));
    let known = HARMLESS.iter().any(|&(in_module, ends)| {
        in_module == module && (name == ends || ends == "Storage" && name.ends_with(ends))
    });
    if known {
        Ok(())
    } else {
        Err(format!(
            "it would call '{module}.{name}', which no model's weights need; nothing was executed"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_be_called_is_found_in_every_spelling() {
        for pickle in [
            &b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R."[..],
            b"(S'echo'\nios\nsystem\n.",
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04echo\x85R.",
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.",
        ] {
            let message = check(pickle, 1).unwrap_err();
            assert!(message.contains("os.system"), "{message}");
        }
        check(b"\x80\x02ccollections\nOrderedDict\n)R.", 1).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&bytes, 5);
        }
    }
}
