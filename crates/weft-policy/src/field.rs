//! One field of a match: a list of values, wanted or unwanted.

mod block;
mod text;

use weft_types::{Match, SpiffeId};

use crate::connection::Connection;

use block::Blocks;
use text::Texts;

/// A field with at least one value.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    values: Values,
    /// Holds when none of the values is true of the connection.
    negated: bool,
}

#[derive(Clone, Debug)]
enum Values {
    Namespace(Texts),
    Principal(Texts),
    /// Namespace and service account, sorted.
    ServiceAccount(Box<[(Box<str>, Box<str>)]>),
    SourceIp(Blocks),
    DestinationIp(Blocks),
    /// Sorted.
    DestinationPort(Box<[u16]>),
}

impl Field {
    /// The non-empty fields of a match, the cheapest to check first.
    pub(crate) fn of_match(item: &Match) -> Box<[Self]> {
        let mut fields = Vec::new();
        let mut add = |given: bool, negated, values| {
            if given {
                fields.push(Self { values, negated });
            }
        };
        for (negated, ports, source_ips, destination_ips, namespaces, accounts, principals) in [
            (
                false,
                &item.destination_ports,
                &item.source_ips,
                &item.destination_ips,
                &item.namespaces,
                &item.service_accounts,
                &item.principals,
            ),
            (
                true,
                &item.not_destination_ports,
                &item.not_source_ips,
                &item.not_destination_ips,
                &item.not_namespaces,
                &item.not_service_accounts,
                &item.not_principals,
            ),
        ] {
            add(!ports.is_empty(), negated, Values::ports(ports));
            add(
                !source_ips.is_empty(),
                negated,
                Values::SourceIp(Blocks::new(source_ips)),
            );
            add(
                !destination_ips.is_empty(),
                negated,
                Values::DestinationIp(Blocks::new(destination_ips)),
            );
            add(
                !namespaces.is_empty(),
                negated,
                Values::Namespace(Texts::new(namespaces)),
            );
            add(!accounts.is_empty(), negated, Values::accounts(accounts));
            add(
                !principals.is_empty(),
                negated,
                Values::Principal(Texts::of_principals(principals)),
            );
        }
        fields.into_boxed_slice()
    }

    /// Whether the field holds for a connection in canonical form.
    pub(crate) fn holds(&self, connection: &Connection<'_>) -> bool {
        self.values.any(connection) != self.negated
    }
}

impl Values {
    fn ports(ports: &[u16]) -> Self {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        Self::DestinationPort(ports.into_boxed_slice())
    }

    fn accounts(accounts: &[weft_types::ServiceAccountMatch]) -> Self {
        let mut accounts: Vec<(Box<str>, Box<str>)> = accounts
            .iter()
            .map(|one| {
                (
                    one.namespace.as_str().into(),
                    one.service_account.as_str().into(),
                )
            })
            .collect();
        accounts.sort_unstable();
        Self::ServiceAccount(accounts.into_boxed_slice())
    }

    /// Whether any of the values is true of the connection. Of a peer without identity, no identity value ever is.
    fn any(&self, connection: &Connection<'_>) -> bool {
        let of_identity =
            |check: &dyn Fn(&SpiffeId) -> bool| connection.source_identity.is_some_and(check);
        match self {
            Self::Namespace(texts) => of_identity(&|id| texts.any(&[id.namespace()])),
            Self::Principal(texts) => of_identity(&|id| {
                texts.any(&[
                    id.trust_domain().as_str(),
                    "/ns/",
                    id.namespace(),
                    "/sa/",
                    id.service_account(),
                ])
            }),
            Self::ServiceAccount(accounts) => of_identity(&|id| {
                let own = (id.namespace(), id.service_account());
                accounts
                    .binary_search_by(|(namespace, account)| (&**namespace, &**account).cmp(&own))
                    .is_ok()
            }),
            Self::SourceIp(blocks) => blocks.any(connection.source_ip),
            Self::DestinationIp(blocks) => blocks.any(connection.destination_ip),
            Self::DestinationPort(ports) => {
                ports.binary_search(&connection.destination_port).is_ok()
            }
        }
    }
}
