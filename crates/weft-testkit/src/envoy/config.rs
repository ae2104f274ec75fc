//! The bootstrap file: the listeners and clusters that Istio gives its waypoint.
//!
//! In: a role and certificates. Out: JSON. The names (`connect_terminate`, `main_internal`, `connect_originate`) and the way
//! between them are Istio's: a CONNECT is terminated, its authority becomes the original destination of an internal
//! connection, which is either delivered plainly or wrapped into a CONNECT of its own. Not here: HTTP routing.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// What this Envoy does.
pub struct Role {
    /// Its certificates.
    pub certificates: Certificates,
    /// Where HBONE comes in (`connect_terminate`), if anywhere.
    pub terminate: Option<SocketAddr>,
    /// Where plain TCP comes in (`plain`), and for which destination, if anywhere.
    pub plain: Option<(SocketAddr, SocketAddr)>,
    /// HBONE port of the next hop, at the address of the destination; none delivers plainly.
    pub originate: Option<u16>,
    /// Services, each with the endpoint that stands for it; every other destination is taken as it is.
    pub services: Vec<(SocketAddr, SocketAddr)>,
}

/// What Envoy shows and trusts, as PEM.
#[derive(Clone)]
pub struct Certificates {
    /// Leaf and intermediates.
    pub chain: String,
    /// Its key.
    pub key: String,
    /// Roots.
    pub roots: String,
    /// Peers' URI names must begin so, for example `spiffe://cluster.local/`.
    pub peers: String,
}

const API: &str = "type.googleapis.com/envoy";

pub(super) fn bootstrap(role: &Role, admin: &Path) -> Value {
    let mut listeners = vec![main_internal(role), connect_originate()];
    if let Some(address) = role.terminate {
        listeners.push(connect_terminate(address, &role.certificates));
    }
    if let Some((address, destination)) = role.plain {
        listeners.push(plain(address, destination));
    }
    json!({
        "node": {"id": "envoy", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": admin}}},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {"@type": format!("{API}.extensions.bootstrap.internal_listener.v3.InternalListener")},
        }],
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                internal_cluster("main_internal"),
                internal_cluster("originate_internal"),
                delivery(),
                originate_cluster(role),
            ],
        },
    })
}

/// HBONE in: TLS 1.3 with client certificate, HTTP/2, CONNECT only.
fn connect_terminate(address: SocketAddr, certificates: &Certificates) -> Value {
    let filter_state = |key: &str, value: &str| {
        json!({
            "object_key": key,
            "format_string": {"text_format_source": {"inline_string": value}},
            "shared_with_upstream": "ONCE",
        })
    };
    let connection_manager = json!({
        "@type": format!("{API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "connect_terminate",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": true, "max_concurrent_streams": 100},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [
            {
                "name": "connect_authority",
                "typed_config": {
                    "@type": format!("{API}.extensions.filters.http.set_filter_state.v3.Config"),
                    "on_request_headers": [
                        filter_state("envoy.filters.listener.original_dst.local_ip", "%REQ(:AUTHORITY)%"),
                        filter_state("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
                    ],
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{API}.extensions.filters.http.router.v3.Router")},
            },
        ],
        "route_config": {"virtual_hosts": [{
            "name": "default",
            "domains": ["*"],
            "routes": [{
                "match": {"connect_matcher": {}},
                "route": {
                    "cluster": "main_internal",
                    "timeout": "0s",
                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                },
            }],
        }]},
    });
    let tls = json!({
        "@type": format!("{API}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common_tls(certificates),
    });
    json!({
        "name": "connect_terminate",
        "address": socket(address),
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": tls},
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager,
            }],
        }],
    })
}

/// What came out of a CONNECT, with the authority as its destination.
fn main_internal(role: &Role) -> Value {
    let next = match role.originate {
        Some(_) => "originate_internal",
        None => "delivery",
    };
    let chain =
        |destination: &str| json!([hand_on(destination), tcp_proxy("main_internal", next, None)]);
    let of_service = |(service, endpoint): &(SocketAddr, SocketAddr)| {
        let length = if service.is_ipv4() { 32 } else { 128 };
        json!({
            "filter_chain_match": {
                "prefix_ranges": [{"address_prefix": service.ip(), "prefix_len": length}],
                "destination_port": service.port(),
            },
            "filters": chain(&endpoint.to_string()),
        })
    };
    json!({
        "name": "main_internal",
        "internal_listener": {},
        "listener_filters": [original_dst()],
        "filter_chains": role.services.iter().map(of_service).collect::<Vec<_>>(),
        "default_filter_chain": {"filters": chain("%DOWNSTREAM_LOCAL_ADDRESS%")},
    })
}

/// Plain TCP for one destination.
fn plain(address: SocketAddr, destination: SocketAddr) -> Value {
    json!({
        "name": "plain",
        "address": socket(address),
        "filter_chains": [{"filters": [
            hand_on(&destination.to_string()),
            tcp_proxy("plain", "originate_internal", None),
        ]}],
    })
}

/// Wraps a connection into a CONNECT to its destination.
fn connect_originate() -> Value {
    json!({
        "name": "originate_internal",
        "internal_listener": {},
        "listener_filters": [original_dst()],
        "filter_chains": [{"filters": [
            tcp_proxy("connect_originate", "connect_originate", Some("%DOWNSTREAM_LOCAL_ADDRESS%")),
        ]}],
    })
}

/// HBONE out: to the destination's address, at the HBONE port.
fn originate_cluster(role: &Role) -> Value {
    let tls = json!({
        "@type": format!("{API}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common_tls(&role.certificates),
    });
    json!({
        "name": "connect_originate",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "original_dst_lb_config": {"upstream_port_override": role.originate.unwrap_or(15008)},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{API}.extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {
                    "allow_connect": true,
                    "connection_keepalive": {"interval": "10s", "timeout": "20s"},
                }},
            },
        },
        "transport_socket": {"name": "tls", "typed_config": tls},
    })
}

/// To the destination as it is.
fn delivery() -> Value {
    json!({
        "name": "delivery",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
    })
}

fn internal_cluster(listener: &str) -> Value {
    json!({
        "name": listener,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": listener,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "envoy_internal_address": {"server_listener_name": listener},
            }}}]}],
        },
        "transport_socket": {
            "name": "internal_upstream",
            "typed_config": {
                "@type": format!("{API}.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"),
                "transport_socket": {
                    "name": "raw_buffer",
                    "typed_config": {"@type": format!("{API}.extensions.transport_sockets.raw_buffer.v3.RawBuffer")},
                },
            },
        },
    })
}

/// Tells the next internal listener the destination.
fn hand_on(destination: &str) -> Value {
    json!({
        "name": "hand_on",
        "typed_config": {
            "@type": format!("{API}.extensions.filters.network.set_filter_state.v3.Config"),
            "on_new_connection": [{
                "object_key": "envoy.filters.listener.original_dst.local_ip",
                "format_string": {"text_format_source": {"inline_string": destination}},
                "shared_with_upstream": "ONCE",
            }],
        },
    })
}

fn original_dst() -> Value {
    json!({
        "name": "set_dst_address",
        "typed_config": {"@type": format!("{API}.extensions.filters.listener.original_dst.v3.OriginalDst")},
    })
}

fn tcp_proxy(stat_prefix: &str, cluster: &str, tunnel_to: Option<&str>) -> Value {
    let mut config = json!({
        "@type": format!("{API}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": stat_prefix,
        "cluster": cluster,
    });
    if let Some(hostname) = tunnel_to {
        config["tunneling_config"] = json!({"hostname": hostname});
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
}

fn common_tls(certificates: &Certificates) -> Value {
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": {"inline_string": certificates.chain},
            "private_key": {"inline_string": certificates.key},
        }],
        "validation_context": {
            "trusted_ca": {"inline_string": certificates.roots},
            "match_typed_subject_alt_names": [{
                "san_type": "URI",
                "matcher": {"prefix": certificates.peers},
            }],
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}
