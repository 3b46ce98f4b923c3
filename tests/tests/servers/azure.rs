//! Azure with a SAS token of one container, on `azurite`.

use futures::TryStreamExt as _;
use tidemark_store::{Create, StoreError, UrlSigner, UserMetadata};
use tidemark_tests::{
    TestStore,
    stores::{self, StoreBackend},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sas_token_reads_and_writes_and_signs_nothing() {
    let Some(at) = TestStore::azurite().await else { return };
    let StoreBackend::AzuriteServer { environment, sas_token } = &at.on else { unreachable!("it is one") };
    let mut environment = environment.clone();
    environment.remove("AZURE_STORAGE_KEY");
    environment.insert("AZURE_STORAGE_SAS_TOKEN".to_owned(), sas_token.clone());
    let store = stores::open(at.store.url().as_str(), &environment);
    let none = UserMetadata::new();
    assert!(matches!(store.create("a", "one".into(), &none).await, Create::Committed));
    assert!(matches!(store.create("a", "two".into(), &none).await, Create::Lost));
    let listed: Vec<_> = store.list("", None).try_collect().await.expect("it lists");
    assert_eq!(listed.into_iter().map(|info| info.key).collect::<Vec<_>>(), ["a"]);
    store.put("b", "three".into()).await.expect("it is written");
    store.delete(&["a", "b", "never"].map(str::to_owned)).await.expect("they are deleted");
    assert!(store.list("", None).try_next().await.expect("it lists").is_none());
    let now = at.now().await;
    let unsigned = UrlSigner::of(&store).put_url("b", now, now.next(), &none).await.expect_err("it has no key");
    assert!(matches!(unsigned, StoreError::Unsignable { .. }), "{unsigned}");
}
