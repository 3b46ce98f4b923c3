//! Avro object container files, as far as Iceberg's manifests and manifest lists need them: records of one fixed schema, not
//! compressed, in one block.
//!
//! The bytes of a file follow from its records: the marker between blocks is made of their SHA-256 and is not random.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// What a container begins with.
const MAGIC: [u8; 4] = *b"Obj\x01";
/// The length of the marker that ends the header and each block.
const MARKER_BYTES: usize = 16;

/// Writes values in Avro's binary encoding.
#[derive(Default)]
pub(crate) struct AvroEncoder(Vec<u8>);

impl AvroEncoder {
    /// An `int` or a `long`.
    pub(crate) fn long(&mut self, value: i64) -> &mut Self {
        let mut rest = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
        loop {
            let low = u8::try_from(rest & 0x7F).unwrap_or_default();
            rest >>= 7;
            if rest == 0 {
                self.0.push(low);
                return self;
            }
            self.0.push(low | 0x80);
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.long(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(u8::from(value));
        self
    }

    /// The first branch of a union of `null` and something else.
    pub(crate) fn null(&mut self) -> &mut Self {
        self.long(0)
    }

    /// The second branch of a union of `null` and something else, whose value follows.
    pub(crate) fn some(&mut self) -> &mut Self {
        self.long(1)
    }

    /// An array whose items are written by `item`.
    pub(crate) fn array<T>(&mut self, items: &[T], item: impl Fn(&mut Self, &T)) -> &mut Self {
        if !items.is_empty() {
            self.long(i64::try_from(items.len()).unwrap_or(i64::MAX));
            items.iter().for_each(|one| item(self, one));
        }
        self.long(0)
    }
}

/// Reads values in Avro's binary encoding. Every error says what is wrong.
pub(crate) struct AvroDecoder<'a>(&'a [u8]);

impl<'a> AvroDecoder<'a> {
    pub(crate) fn long(&mut self) -> Result<i64, String> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let [byte] = self.take::<1>()?;
            // The tenth byte holds the last bit of 64.
            if shift == 63 && byte > 1 {
                return Err("a number is longer than 64 bits".to_owned());
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
            shift += 7;
        }
    }

    /// A `long` that is a count or a size.
    pub(crate) fn count(&mut self) -> Result<u64, String> {
        let value = self.long()?;
        u64::try_from(value).map_err(|_| format!("a count is {value}"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = usize::try_from(self.count()?).map_err(|error| error.to_string())?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it breaks off")?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|error| error.to_string())
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, String> {
        Ok(self.take::<1>()? != [0])
    }

    /// Whether the value of a union of `null` and something else follows.
    pub(crate) fn is_some(&mut self) -> Result<bool, String> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("a union has no branch {other}")),
        }
    }

    /// The items of an array, or what `item` makes of them.
    pub(crate) fn array<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        loop {
            // We write no sizes of blocks, which a negative count would announce.
            let count = self.count()?;
            if count == 0 {
                return Ok(items);
            }
            for _ in 0..count {
                items.push(item(self)?);
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or("it breaks off")?;
        self.0 = rest;
        Ok(*bytes)
    }
}

/// A container of `records`, each written by `write`, with `metadata` in its header.
pub(crate) fn encode_container<T>(
    schema: &str,
    metadata: &[(&str, String)],
    records: &[T],
    write: impl Fn(&mut AvroEncoder, &T),
) -> Vec<u8> {
    let mut block = AvroEncoder::default();
    records.iter().for_each(|record| write(&mut block, record));
    let digest: [u8; 32] = Sha256::digest(&block.0).into();
    let marker = &digest[..MARKER_BYTES];
    let own = [("avro.schema", schema.to_owned()), ("avro.codec", "null".to_owned())];
    let header: Vec<_> = own.iter().chain(metadata).collect();
    let mut file = AvroEncoder(MAGIC.to_vec());
    file.array(&header, |file, (name, value)| {
        file.text(name).text(value);
    });
    file.0.extend_from_slice(marker);
    if !records.is_empty() {
        file.long(i64::try_from(records.len()).unwrap_or(i64::MAX)).bytes(&block.0);
        file.0.extend_from_slice(marker);
    }
    file.0
}

/// The records of a container of `schema`, each read by `read`, and the metadata in its header. Only what
/// [`encode_container`] writes is read.
pub(crate) fn decode_container<T>(
    file: &[u8],
    schema: &str,
    read: impl Fn(&mut AvroDecoder<'_>) -> Result<T, String>,
) -> Result<(BTreeMap<String, String>, Vec<T>), String> {
    let body = file.strip_prefix(&MAGIC).ok_or("it is no Avro file")?;
    let mut file = AvroDecoder(body);
    let pairs = file.array(|file| Ok((file.text()?.to_owned(), file.text()?.to_owned())))?;
    let header: BTreeMap<_, _> = pairs.into_iter().collect();
    let is = |name: &str, value: &str| header.get(name).is_some_and(|found| found == value);
    if !is("avro.schema", schema) || !is("avro.codec", "null") {
        return Err("its schema or its compression is not the archive's".to_owned());
    }
    let marker = file.take::<MARKER_BYTES>()?;
    let mut records = Vec::new();
    while !file.0.is_empty() {
        let count = file.count()?;
        let mut block = AvroDecoder(file.bytes()?);
        for _ in 0..count {
            records.push(read(&mut block)?);
        }
        if !block.0.is_empty() || file.take::<MARKER_BYTES>()? != marker {
            return Err("a block does not end where it says".to_owned());
        }
    }
    Ok((header, records))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"pair","fields":[]}"#;

    fn encoded(records: &[(i64, Vec<u8>)]) -> Vec<u8> {
        encode_container(SCHEMA, &[("a", "b".to_owned())], records, |to, (number, bytes)| {
            to.some().long(*number).array(bytes, |to, byte| {
                to.long(i64::from(*byte));
            });
        })
    }

    fn decoded(file: &[u8]) -> Result<Vec<(i64, Vec<u8>)>, String> {
        let read = |from: &mut AvroDecoder<'_>| {
            assert!(from.is_some()?, "the second branch");
            let number = from.long()?;
            Ok((number, from.array(|from| u8::try_from(from.long()?).map_err(|error| error.to_string()))?))
        };
        let (header, records) = decode_container(file, SCHEMA, read)?;
        assert_eq!(header["a"], "b");
        Ok(records)
    }

    /// The examples of Avro's specification.
    #[test]
    fn numbers_are_written_as_the_specification_says() {
        for (number, bytes) in
            [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (-2, vec![3]), (-64, vec![0x7F]), (64, vec![0x80, 1])]
        {
            let mut encoder = AvroEncoder::default();
            assert_eq!(encoder.long(number).0, bytes, "{number}");
        }
        let mut encoder = AvroEncoder::default();
        assert_eq!(encoder.text("foo").0, [6, b'f', b'o', b'o']);
    }

    #[test]
    fn another_schema_is_refused() {
        let file = encoded(&[(1, vec![])]);
        assert!(decode_container(&file, "{}", |_| Ok(())).unwrap_err().contains("schema"));
        assert!(decode_container(b"PAR1", SCHEMA, |_| Ok(())).unwrap_err().contains("no Avro file"));
    }

    proptest! {
        #[test]
        fn records_round_trip(records: Vec<(i64, Vec<u8>)>) {
            prop_assert_eq!(decoded(&encoded(&records)), Ok(records));
        }

        #[test]
        fn a_file_that_breaks_off_is_refused(records in prop::collection::vec(any::<(i64, Vec<u8>)>(), 1..4), cut in 1usize..200) {
            let file = encoded(&records);
            let end = file.len().saturating_sub(cut);
            // Cut behind the header it is a file without records.
            let header = encoded(&[]).len();
            prop_assume!(end != header);
            prop_assert!(decoded(&file[..end]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let file = [&MAGIC[..], &bytes].concat();
            let _ = decode_container(&file, SCHEMA, |from| from.long());
        }
    }
}
