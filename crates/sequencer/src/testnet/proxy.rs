//! An encrypted testnet's proxy: what `cascade proxy` runs, in the testnet's own process.

use std::net::SocketAddr;

use cascade_crypto::envelope::GasClasses;

use super::cluster::Cluster;
use crate::{
    cli::Failure,
    exit::ExitCode,
    home::write_atomically,
    proxy::{PayerKey, Proxy, ProxyConfig},
};

/// Where it listened last: a testnet that is resumed takes the same port, if it is free.
const ADDRESS_FILE: &str = "address";

/// Starts it at the first node. Its payer is the public one, which the genesis funds.
pub(super) async fn start(cluster: &Cluster) -> Result<Proxy, Failure> {
    let data = cluster.dir().join("proxy");
    let file = data.join(ADDRESS_FILE);
    let remembered = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = ProxyConfig {
        node: cluster.nodes()[0].file().rpc_http.clone(),
        light: None,
        listen: remembered.unwrap_or(free),
        allow_remote: false,
        data,
        payer: PayerKey::Public,
        cors_origins: vec!["*".to_owned()],
        gas_classes: GasClasses::default(),
    };
    let proxy = match Proxy::start(&config).await {
        Err(failure) if failure.code == ExitCode::PortInUse => {
            config.listen = free;
            Proxy::start(&config).await?
        }
        result => result?,
    };
    write_atomically(&file, format!("{}\n", proxy.address()).as_bytes())
        .map_err(|error| Failure::io(file.display(), &error))?;
    Ok(proxy)
}
