use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::repository::bench::{Key, sample};
use crate::testing::TempDir;

const NAME: &str = "instances/i/backups/b/part-000001";

fn key() -> Key {
    Key::new()
}

fn asked(text: &str) -> IdentitySource {
    let text = text.as_bytes().to_vec();
    IdentitySource::Asked(Arc::new(move || Ok(text.clone())))
}

fn settings(compression: Compression, encrypt_to: &[&Key], identity: IdentitySource) -> Settings {
    let encrypt_to = encrypt_to.iter().map(|key| key.public.clone()).collect();
    Settings { compression, encrypt_to, identity, ..Settings::default() }
}

fn codec(compression: Compression, encrypt_to: &[&Key], identity: IdentitySource) -> Codec {
    Codec::new(&settings(compression, encrypt_to, identity)).unwrap()
}

fn pack(codec: &Codec, name: &str, raw: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    codec.packer().unwrap().pack(name, raw, &mut stored).unwrap();
    stored
}

#[test]
fn every_form_comes_back_and_a_packer_is_used_again() {
    let key = key();
    for compression in Compression::ALL {
        for encrypt_to in [&[][..], &[&key]] {
            let codec = codec(compression, encrypt_to, asked(&key.text));
            let mut packer = codec.packer().unwrap();
            let mut stored = b"something from before".to_vec();
            for length in [0, 1, 70_000, 65_536, 3_000_000, 12] {
                let raw = sample(length, length as u64);
                packer.pack(NAME, &raw, &mut stored).unwrap();
                assert!(codec.unpack(NAME, &stored, length).unwrap() == raw, "{compression:?} {length}");
                let encrypted = stored.starts_with(b"age-encryption.org/v1\n");
                assert_eq!(encrypted, !encrypt_to.is_empty());
                assert!(!encrypted || !stored.windows(9).any(|it| it == b"backups/b"), "the name is inside");
            }
        }
    }
}

#[test]
fn what_is_written_in_one_form_is_read_whatever_the_settings_are_now() {
    let key = key();
    let raw = sample(10_000, 1);
    let now = codec(Compression::Zstd, &[], asked(&key.text));
    for (compression, encrypt_to) in
        [(Compression::Gzip, &[][..]), (Compression::Gzip, &[&key]), (Compression::Zstd, &[&key])]
    {
        let stored = pack(&codec(compression, encrypt_to, IdentitySource::Nowhere), NAME, &raw);
        assert!(now.unpack(NAME, &stored, raw.len()).unwrap() == raw);
    }
}

#[test]
fn a_valid_object_in_the_place_of_another_is_told_by_both_names() {
    let key = key();
    for compression in Compression::ALL {
        for encrypt_to in [&[][..], &[&key]] {
            let codec = codec(compression, encrypt_to, asked(&key.text));
            let stored = pack(&codec, NAME, b"raw");
            let err = codec.unpack("instances/i/backups/b/part-000002", &stored, 3).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Corrupt);
            assert!(err.message().contains(NAME), "{err}");
        }
    }
}

#[test]
fn any_flipped_bit_cut_or_tail_is_corrupt_or_locked_and_never_other_bytes() {
    let key = key();
    let raw = sample(900, 3);
    for compression in Compression::ALL {
        for encrypt_to in [&[][..], &[&key]] {
            let codec = codec(compression, encrypt_to, asked(&key.text));
            let good = pack(&codec, NAME, &raw);
            let check = |bad: &[u8], what: &str| match codec.unpack(NAME, bad, raw.len()) {
                Ok(unpacked) => assert!(unpacked == raw, "{what} went unseen"),
                // A damaged stanza looks like one for somebody else; whoever knows the digest has compared it before.
                Err(err) => assert!(matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::Refused), "{what}: {err}"),
            };
            for bit in (0..good.len() * 8).filter(|bit| *bit < 3000 || bit % 7 == 0) {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                check(&bad, &format!("bit {bit}"));
            }
            for cut in 0..good.len() {
                assert_eq!(
                    codec.unpack(NAME, &good[..cut], raw.len()).unwrap_err().kind(),
                    ErrorKind::Corrupt,
                    "{cut}"
                );
            }
            for tail in [&b"t"[..], &good] {
                let err = codec.unpack(NAME, &[&good, tail].concat(), raw.len()).unwrap_err();
                assert_eq!(err.kind(), ErrorKind::Corrupt, "{compression:?}");
            }
            for wrong in [0, raw.len() - 1, raw.len() + 1] {
                assert_eq!(codec.unpack(NAME, &good, wrong).unwrap_err().kind(), ErrorKind::Corrupt);
            }
        }
    }
}

#[test]
fn without_a_fitting_identity_nothing_opens_and_the_reason_is_told() {
    let (own, other) = (key(), key());
    let stored = pack(&codec(Compression::Zstd, &[&own], IdentitySource::Nowhere), NAME, b"raw");
    let dir = TempDir::new();
    let absent = IdentitySource::File(dir.join("identity.txt"));
    let failing = IdentitySource::Asked(Arc::new(|| Err(Error::new(ErrorKind::Tool, "the vault is shut"))));
    for (identity, words) in [
        (IdentitySource::Nowhere, "no identity is configured"),
        (absent, "identity.txt` is not there"),
        (asked(&other.text), "the identity here is that of age1"),
        (failing, "the vault is shut"),
        (asked(""), "holds no identity"),
    ] {
        let codec = codec(Compression::Zstd, &[], identity);
        let err = codec.unpack(NAME, &stored, 3).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Refused, "{err}");
        assert!(err.message().contains(words), "{err}");
        assert!(codec.check_opens(std::slice::from_ref(&own.public)).is_err());
    }
}

#[test]
fn each_of_several_recipients_opens_it_and_old_objects_stay_readable_after_a_rotation() {
    let (old, new, third) = (key(), key(), key());
    let before = pack(&codec(Compression::Zstd, &[&old], IdentitySource::Nowhere), NAME, b"raw");
    let after = pack(&codec(Compression::Zstd, &[&new, &third, &new], IdentitySource::Nowhere), NAME, b"raw");
    let both = codec(Compression::Zstd, &[&new], asked(&format!("{}{}", new.text, old.text)));
    for stored in [&before, &after] {
        assert_eq!(both.unpack(NAME, stored, 3).unwrap(), b"raw");
    }
    both.check_opens(std::slice::from_ref(&old.public)).unwrap();
    both.check_opens(&[third.public.clone(), new.public.clone()]).unwrap();
    let why = both.check_opens(std::slice::from_ref(&third.public)).unwrap_err();
    assert!(why.contains(&old.public) && why.contains(&new.public), "{why}");
    let one = codec(Compression::Zstd, &[], asked(&third.text));
    assert_eq!(one.unpack(NAME, &after, 3).unwrap(), b"raw");
    assert!(one.unpack(NAME, &before, 3).is_err());
}

#[test]
fn a_command_is_asked_when_something_is_opened_and_only_once() {
    let key = key();
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, text) = (Arc::clone(&count), key.text.clone());
    let identity = IdentitySource::Asked(Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(text.clone().into_bytes())
    }));
    let codec = codec(Compression::Zstd, &[&key], identity);
    let stored = pack(&codec, NAME, b"raw");
    let plain = pack(&self::codec(Compression::Zstd, &[], IdentitySource::Nowhere), NAME, b"raw");
    codec.unpack(NAME, &plain, 3).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0, "nothing had to be decrypted");
    for _ in 0..3 {
        codec.clone().unpack(NAME, &stored, 3).unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_others_may_read_or_that_holds_no_identity_is_refused_at_the_start_and_never_shown() {
    let dir = TempDir::new();
    let path = dir.join("identity.txt");
    let open = |text: &str, mode: u32| {
        crate::durable::write(&path, text.as_bytes(), 0o600).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Codec::new(&settings(Compression::Zstd, &[], IdentitySource::File(path.clone())))
    };
    let key = key();
    for mode in [0o640, 0o604, 0o660] {
        let err = open(&key.text, mode).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::Refused);
        assert!(err.message().contains("others") && err.hint_text().unwrap().contains("chmod 600"), "{err}");
    }
    let secret = key.text.lines().last().unwrap();
    for bad in [&secret[..secret.len() - 1], "", "# only a comment", "age1abc", &"\n".repeat(2 << 20)] {
        let err = open(bad, 0o600).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert!(err.message().contains("identity.txt") && !err.to_string().contains(&secret[20..40]), "{err}");
    }
    assert_eq!(open(&key.text, 0o600).unwrap().identities().unwrap(), [key.public]);
    assert_eq!(open(&key.text, 0o400).unwrap().identities().unwrap().len(), 1);
}

#[test]
fn a_bad_recipient_is_named_and_a_secret_in_its_place_is_not() {
    let key = key();
    let recipients = |name: &str| {
        let settings = Settings { encrypt_to: vec![key.public.clone(), name.to_owned()], ..Settings::default() };
        Codec::new(&settings)
    };
    for bad in ["", "age1", "ssh-ed25519 AAAA", &key.public[..50], &key.public.replace("age1", "age2")] {
        let err = recipients(bad).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert!(
            err.message().contains("repository.encrypt_to") && err.message().contains(&format!("`{bad}`")),
            "{err}"
        );
    }
    let secret = key.text.lines().last().unwrap();
    let err = recipients(secret).err().unwrap();
    assert!(!err.to_string().contains(&secret[20..40]), "{err}");
    assert_eq!(recipients(&format!(" {} ", key.public)).unwrap().recipients(), std::slice::from_ref(&key.public));
    let many: Vec<String> = (0..65).map(|_| self::key().public).collect();
    assert!(Codec::new(&Settings { encrypt_to: many, ..Settings::default() }).is_err());
}

/// Yields its bytes again and again.
struct Endless(&'static [u8], usize);

impl std::io::Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.0[self.1 % self.0.len()..];
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.1 += length;
        Ok(length)
    }
}

#[test]
fn a_header_without_end_is_damage_and_one_for_the_most_recipients_is_none() {
    let codec_of = |keys: &[&Key], text: &str| codec(Compression::Zstd, keys, asked(text));
    let key = key();
    for line in ["-> X25519 AAAA\n", "AAAA\n", "\n", "A"] {
        let lines = std::io::BufReader::new(Endless(line.as_bytes(), 0));
        let stored = std::io::BufReader::new(std::io::Read::chain(&b"age-encryption.org/v1\n"[..], lines));
        match codec_of(&[], &key.text).decoder(NAME, stored) {
            Err(Fault::Damaged(why)) => assert!(why.contains("header"), "{why}"),
            other => panic!("{line:?}: {:?}", other.err()),
        }
    }
    let keys: Vec<Key> = (0..64).map(|_| self::key()).collect();
    let stored = pack(&codec_of(&keys.iter().collect::<Vec<_>>(), ""), NAME, b"raw");
    assert_eq!(codec_of(&[], &keys[63].text).unpack(NAME, &stored, 3).unwrap(), b"raw");
}

#[test]
fn a_hostile_object_takes_no_more_memory_than_it_may() {
    let codec = codec(Compression::Zstd, &[], IdentitySource::Nowhere);
    let long_name = [&NAME_MAGIC.to_le_bytes()[..], &u32::MAX.to_le_bytes(), b"x"].concat();
    let mut no_name = zstd::encode_all(&b"raw"[..], 1).unwrap();
    no_name.extend_from_slice(b"x");
    let gzip_without_name = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"raw").unwrap();
        encoder.finish().unwrap()
    };
    for bad in [&long_name[..], &no_name, &gzip_without_name, b"", b"age-", b"\x1f\x8b\x08\x00", b"nothing of ours"] {
        assert_eq!(codec.unpack(NAME, bad, 3).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
    }
    let bomb = pack(&codec, NAME, &vec![0; 50_000_000]);
    assert_eq!(codec.unpack(NAME, &bomb, 1000).unwrap_err().kind(), ErrorKind::Corrupt);
}
