//! TensorBoard event files with scalars: length-prefixed, checksummed protobuf records.
//!
//! The format is TensorFlow's `core/lib/io/record_writer.h` around `core/util/event.proto`. The
//! crates that write it need a protobuf compiler at build time or an image library of their own;
//! a scalar needs six fields.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How TensorBoard knows its files.
const START: &str = "events.out.tfevents.";

/// Writes scalars where TensorBoard finds them.
pub(crate) struct EventFile {
    file: BufWriter<File>,
}

impl EventFile {
    /// Opens one event file in `folder`. Of the scalars that the files there have, those stay of which `stays` says so, by
    /// step and tag, each once; a record that was cut short goes.
    pub fn open(folder: &Path, stays: impl Fn(u64, &str) -> bool) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(START) {
                old.push(path);
            }
        }
        old.sort();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{START}{}.{:09}.aptvit", now.as_secs(), now.subsec_nanos());
        // TensorBoard does not read a file of this name.
        let partial = folder.join("events.partial");
        let mut file = Self {
            file: BufWriter::new(File::create(&partial)?),
        };
        let mut event = wall_time();
        put_bytes(&mut event, 3, b"brain.Event:2");
        file.write_record(&event)?;
        let mut seen = HashSet::new();
        for path in &old {
            let bytes = fs::read(path)?;
            for event in Records(&bytes) {
                if let Some((step, tag)) = scalar_of(event)
                    && stays(step, &tag)
                    && seen.insert((step, tag))
                {
                    file.write_record(event)?;
                }
            }
        }
        file.flush()?;
        fs::rename(&partial, folder.join(name))?;
        for path in &old {
            fs::remove_file(path)?;
        }
        Ok(file)
    }

    /// Writes `value` under `tag` at `step`.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> std::io::Result<()> {
        let mut summary_value = Vec::new();
        put_bytes(&mut summary_value, 1, tag.as_bytes());
        put_key(&mut summary_value, 2, 5);
        summary_value.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        put_bytes(&mut summary, 1, &summary_value);
        let mut event = wall_time();
        put_key(&mut event, 2, 0);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.write_record(&event)
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }

    fn write_record(&mut self, data: &[u8]) -> std::io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file
            .write_all(&masked_checksum(&length).to_le_bytes())?;
        self.file.write_all(data)?;
        self.file.write_all(&masked_checksum(data).to_le_bytes())
    }
}

fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// Field 1 of an event, a double: the seconds since 1970.
fn wall_time() -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut event = Vec::new();
    put_key(&mut event, 1, 1);
    event.extend(now.as_secs_f64().to_le_bytes());
    event
}

/// The records of a file, as far as they are whole.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*checksum) != masked_checksum(data) {
            return None;
        }
        self.0 = rest;
        Some(data)
    }
}

/// The step and the tag of an event that holds a scalar.
fn scalar_of(event: &[u8]) -> Option<(u64, String)> {
    let fields = |bytes| Fields(bytes).collect::<Vec<_>>();
    let bytes_of = |fields: &[(u64, Field<'_>)], number: u64| {
        fields.iter().find_map(|field| match field {
            (found, Field::Bytes(bytes)) if *found == number => Some(bytes.to_vec()),
            _ => None,
        })
    };
    let event = fields(event);
    let step = event.iter().find_map(|field| match field {
        (2, Field::Number(step)) => Some(*step),
        _ => None,
    });
    let summary = bytes_of(&event, 5)?;
    let value = bytes_of(&fields(&summary), 1)?;
    let tag = bytes_of(&fields(&value), 1)?;
    // Protobuf leaves out what is zero.
    Some((step.unwrap_or(0), String::from_utf8(tag).ok()?))
}

/// The fields of a protobuf message, as far as they are whole.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            wire_type => {
                let length = if wire_type == 1 { 8 } else { 4 };
                self.0 = self.0.split_at_checked(length)?.1;
                Field::Fixed
            }
        };
        Some((key >> 3, field))
    }
}

fn put_key(buffer: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(buffer, field << 3 | wire_type);
}

fn put_bytes(buffer: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(buffer, field, 2);
    put_varint(buffer, bytes.len() as u64);
    buffer.extend(bytes);
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_has_the_bytes_that_tensorflow_writes() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::open(folder.path(), |_, _| true).unwrap();
        file.scalar(300, "loss", 0.5).unwrap();
        file.flush().unwrap();
        let path = fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = fs::read(path).unwrap();
        // The first record: 8 length, 4 checksum, 9 time, 15 version, 4 checksum.
        let second = &bytes[8 + 4 + 9 + 15 + 4..];
        let length = u64::from_le_bytes(second[..8].try_into().unwrap()) as usize;
        let event = &second[12..12 + length];
        assert_eq!(
            event[9..],
            [
                &[0x10, 0xac, 0x02, 0x2a, 0x0d, 0x0a, 0x0b, 0x0a, 0x04][..],
                b"loss",
                &[0x15, 0, 0, 0, 0x3f]
            ]
            .concat()
        );
        let checksum = u32::from_le_bytes(second[12 + length..16 + length].try_into().unwrap());
        assert_eq!(checksum, masked_checksum(event));
    }

    #[test]
    fn a_file_that_goes_on_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &mut EventFile, steps: std::ops::Range<u64>| {
            for step in steps {
                file.scalar(step, "train/loss", step as f64).unwrap();
            }
            file.flush().unwrap();
        };
        let only = || {
            let mut files = fs::read_dir(&folder).unwrap();
            let path = files.next().unwrap().unwrap().path();
            assert!(files.next().is_none(), "one file");
            path
        };
        let mut file = EventFile::open(folder.path(), |_, _| true).unwrap();
        write(&mut file, 0..200);
        // A kill cuts the last record short.
        let bytes = fs::read(only()).unwrap();
        fs::write(only(), &bytes[..bytes.len() - 3]).unwrap();
        let mut file = EventFile::open(folder.path(), |step, _| step <= 150).unwrap();
        write(&mut file, 151..300);
        let bytes = fs::read(only()).unwrap();
        let found: Vec<_> = Records(&bytes).filter_map(scalar_of).collect();
        let expected: Vec<_> = (0..300)
            .map(|step| (step, "train/loss".to_string()))
            .collect();
        assert_eq!(found, expected);
        // As after a kill between the new file and the removal of the old ones.
        fs::copy(only(), folder.path().join(format!("{START}1.aptvit"))).unwrap();
        EventFile::open(folder.path(), |_, _| true).unwrap();
        let bytes = fs::read(only()).unwrap();
        assert_eq!(Records(&bytes).filter_map(scalar_of).count(), 300);
    }
}
