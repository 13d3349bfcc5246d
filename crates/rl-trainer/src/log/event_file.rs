//! TensorBoard event files with scalars: length-prefixed, checksummed protobuf records.
//!
//! The format is TensorFlow's `core/lib/io/record_writer.h` around `core/util/event.proto`. The
//! crates that write it need a protobuf compiler at build time or an image library of their own;
//! a scalar needs six fields.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes scalars where TensorBoard finds them.
pub(crate) struct EventFile {
    file: BufWriter<File>,
}

impl EventFile {
    /// Creates a new event file in `folder`.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!(
            "events.out.tfevents.{}.{:09}.aptvit",
            now.as_secs(),
            now.subsec_nanos()
        );
        let mut file = Self {
            file: BufWriter::new(File::create(folder.join(name))?),
        };
        let mut event = wall_time();
        put_bytes(&mut event, 3, b"brain.Event:2");
        file.write_record(&event)?;
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
        let mut file = EventFile::create(folder.path()).unwrap();
        file.scalar(300, "loss", 0.5).unwrap();
        file.flush().unwrap();
        let path = std::fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = std::fs::read(path).unwrap();
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
}
