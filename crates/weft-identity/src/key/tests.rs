//! What a CSR carries, and that key material is never shown.

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::PrivateKey;
use crate::credentials::Credentials;
use crate::testing::{Root, WEB, id};
use crate::{handover, tls};

#[test]
fn a_csr_carries_the_identity_and_no_other_name() {
    let key = PrivateKey::generate().unwrap();
    let pem = key.request(&id(WEB)).unwrap();
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
    csr.verify_signature().unwrap();
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
    let names: Vec<_> = csr
        .requested_extensions()
        .unwrap()
        .filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(matches!(names[..], [GeneralName::URI(WEB)]), "{names:?}");
}

#[test]
fn a_key_survives_export_and_garbage_does_not_become_one() {
    let key = PrivateKey::generate().unwrap();
    let back = PrivateKey::from_pkcs8(key.pkcs8()).unwrap();
    assert_eq!(key.public_point(), back.public_point());
    assert!(PrivateKey::from_pkcs8(b"").is_err());
    assert!(PrivateKey::from_pkcs8(&key.pkcs8()[1..]).is_err());
}

/// Everything that can be printed, against every form in which a key could show: hex, decimal bytes, base64, raw.
#[test]
fn nothing_that_is_printed_holds_key_material() {
    let root = Root::new("root");
    let credentials = Arc::new(root.credentials(WEB));
    let key = credentials.key();
    let foreign = PrivateKey::generate().unwrap();
    let foreign_bytes = foreign.pkcs8().to_vec();
    let mismatch = Credentials::new(
        id(WEB),
        foreign,
        credentials.chain().to_vec(),
        credentials.roots().to_vec(),
        SystemTime::now(),
    )
    .unwrap_err();
    let mut damaged = handover::export(std::slice::from_ref(&credentials)).to_vec();
    damaged[200] ^= 1;
    let damage = handover::import(&damaged, SystemTime::now()).unwrap_err();
    let printed = [
        format!("{key:?} {key:#?}"),
        format!("{credentials:?} {credentials:#?}"),
        format!("{mismatch:?} {mismatch}"),
        format!("{damage:?} {damage}"),
        format!("{:?}", PrivateKey::from_pkcs8(&foreign_bytes[1..])),
        format!("{:?}", tls::client_config(&credentials, &[id(WEB)])),
        format!("{:?}", tls::server_config(&credentials)),
    ]
    .join("\n");
    for pkcs8 in [key.pkcs8(), &foreign_bytes] {
        for form in forms(pkcs8) {
            assert!(!printed.contains(&form), "found {form}");
        }
    }
    // The search itself finds what it looks for.
    let leak = format!("{:?}", key.pkcs8());
    assert!(forms(key.pkcs8()).iter().any(|form| leak.contains(form)));
}

/// The private scalar (32 bytes after the ECPrivateKey header, RFC 5915) in the forms that a printer might choose.
fn forms(pkcs8: &[u8]) -> Vec<String> {
    let header = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pkcs8.windows(5).position(|bytes| bytes == header).unwrap() + header.len();
    let scalar = &pkcs8[at..at + 32];
    let join = |text: Vec<String>, by: &str| text.join(by);
    let each = |print: fn(&u8) -> String| scalar[..8].iter().map(print).collect::<Vec<_>>();
    vec![
        join(each(|byte| format!("{byte:02x}")), ""),
        join(each(|byte| format!("{byte:02X}")), ""),
        join(each(|byte| format!("{byte:02x}")), ":"),
        join(each(u8::to_string), ", "),
        join(each(|byte| format!("0x{byte:02x}")), ", "),
        join(each(|byte| byte.escape_ascii().to_string()), ""),
    ]
}
