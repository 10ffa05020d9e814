use std::io::Write;
use std::path::Path;

use super::*;

pub(crate) fn sample_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    // Data that does not compress well, so that a cut in the middle is in the data.
    let content: Vec<u8> = (0..200_000u32)
        .flat_map(|n| Sha256::digest(n.to_le_bytes())[..1].to_vec())
        .collect();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder
        .append_data(&mut header, "etc/data", content.as_slice())
        .unwrap();
    builder.into_inner().unwrap()
}

fn compress(compression: Compression, data: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => data.to_vec(),
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Xz => {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
    }
}

const ALL: [Compression; 4] = [
    Compression::Plain,
    Compression::Gzip,
    Compression::Zstd,
    Compression::Xz,
];

fn layer(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<LayerSource, LayerError>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let layer = LayerSource::root(FileSlice::whole(file.path()).unwrap());
    (file, layer)
}

#[test]
fn every_compression_is_detected_and_read() {
    let tar = sample_tar();
    for compression in ALL {
        let packed = compress(compression, &tar);
        let (_file, layer) = layer(&packed);
        let layer = layer.unwrap();
        assert_eq!(layer.compression(), compression);
        assert_eq!(layer.bytes(), packed.len() as u64);
        assert_eq!(
            layer.digest(&Progress::none()).unwrap(),
            Digest::of(&packed)
        );
        let (progress, mut steps) = Progress::channel();
        let mut out = Vec::new();
        layer
            .open(&progress, "unpacking")
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == tar, "{compression}");
        layer.check().unwrap();
        let mut last = None;
        while let Ok(step) = steps.try_recv() {
            last = Some(step);
        }
        let last = last.unwrap();
        assert_eq!(
            (last.message.as_str(), last.total),
            ("unpacking", Some(packed.len() as u64))
        );
        assert_eq!(last.done, last.total, "{compression}");
    }
}

#[test]
fn several_streams_one_after_another_are_one() {
    let tar = sample_tar();
    let (first, second) = tar.split_at(tar.len() / 2);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
        let packed = [compress(compression, first), compress(compression, second)].concat();
        let mut out = Vec::new();
        let (_file, layer) = layer(&packed);
        layer
            .unwrap()
            .open(&Progress::none(), "")
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == tar, "{compression}");
    }
}

#[test]
fn a_cut_stream_leaves_a_fault() {
    let tar = sample_tar();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Xz] {
        let packed = compress(compression, &tar);
        for cut in [packed.len() / 2, packed.len() - 1] {
            let (_file, layer) = layer(&packed[..cut]);
            let layer = layer.unwrap();
            let read = layer
                .open(&Progress::none(), "")
                .unwrap()
                .read_to_end(&mut Vec::new());
            assert!(read.is_err(), "{compression} cut at {cut}");
            let error = layer.check().unwrap_err().to_string();
            assert!(
                error.contains("cut short") && error.contains(&compression.to_string()),
                "{error}"
            );
        }
    }
}

#[test]
fn other_files_than_tar_are_refused_with_a_reason() {
    let zeros = vec![0; 10240];
    let cases: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"hello, this is no archive", "no tar archive"),
        (&[0xa5; 4096], "no tar archive"),
        (&zeros, "without files"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (&[0x1f, 0x8b, 8, 0, 0, 0], "cut short"),
    ];
    for (bytes, said) in cases {
        let error = layer(bytes).1.unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let (_file, nothing_inside) = layer(&compress(Compression::Gzip, b""));
    assert!(
        nothing_inside
            .unwrap_err()
            .to_string()
            .contains("without files")
    );
    let missing = FileSlice::whole(Path::new("/nonexistent/x.tar"));
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/x.tar")
    );
}

#[test]
fn the_bound_on_the_unpacked_size_is_for_all_layers_together() {
    let tar = sample_tar();
    let (_file, first) = layer(&tar);
    let mut first = first.unwrap();
    first.budget = Arc::new(AtomicU64::new(tar.len() as u64 + 1000));
    let mut second = first.clone();
    second.fault = Arc::default();
    let read = |layer: &LayerSource| {
        layer
            .open(&Progress::none(), "")
            .unwrap()
            .read_to_end(&mut Vec::new())
    };
    assert_eq!(read(&first).unwrap(), tar.len());
    assert!(read(&second).is_err());
    first.check().unwrap();
    let error = second.check().unwrap_err().to_string();
    assert!(error.contains("more than 48 GiB"), "{error}");
}

#[test]
fn streams_that_need_much_memory_are_refused() {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let tar = sample_tar();
    let xz = |dictionary: u32| {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        out.write_all(&tar).unwrap();
        out.finish().unwrap()
    };
    let zstd = |log: u32| {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        out.window_log(log).unwrap();
        out.long_distance_matching(true).unwrap();
        out.write_all(&tar).unwrap();
        out.finish().unwrap()
    };
    for packed in [xz(64 << 20), zstd(27)] {
        let (_file, layer) = layer(&packed);
        let mut out = Vec::new();
        let mut input = layer.unwrap().open(&Progress::none(), "").unwrap();
        input.read_to_end(&mut out).unwrap();
        assert!(out == tar);
    }
    // Only the header claims a larger dictionary.
    let mut large = xz(64 << 20);
    let greatest = 40;
    // The header of the first block: size, flags, filter id, size of the properties, size of the dictionary.
    large[16] = greatest;
    let crc = crc32(&large[12..20]);
    large[20..24].copy_from_slice(&crc.to_le_bytes());
    for packed in [large, zstd(30)] {
        let (_file, layer) = layer(&packed);
        let error = layer.unwrap_err().to_string();
        assert!(error.contains("more than 160 MiB of memory"), "{error}");
    }
}

/// The checksum in headers of xz.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
