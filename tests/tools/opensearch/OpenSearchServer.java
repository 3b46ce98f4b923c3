import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import org.codelibs.opensearch.runner.OpenSearchRunner;
import org.opensearch.http.HttpServerTransport;

/**
 * OpenSearch as one node on loopback: usage OpenSearchServer FOLDER PORT. Keeps everything in the folder; port 0 takes a free one. Prints its URL
 * once it serves, and runs until it is killed.
 */
public class OpenSearchServer {
    public static void main(String[] arguments) throws Exception {
        // The server takes over what System.out is.
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        OpenSearchRunner runner = new OpenSearchRunner();
        runner.onBuild((number, settings) -> {
            settings.put("discovery.type", "single-node");
            settings.put("network.host", "127.0.0.1");
            settings.put("http.port", arguments[1]);
            settings.put("transport.port", "0");
            // The disk of the machine that tests is nobody's business.
            settings.put("cluster.routing.allocation.disk.threshold_enabled", false);
        });
        runner.build(OpenSearchRunner.newConfigs().basePath(arguments[0]).numOfNode(1).useLogger());
        HttpServerTransport http = runner.node().injector().getInstance(HttpServerTransport.class);
        out.println("http://127.0.0.1:" + http.boundAddress().publishAddress().getPort());
        Thread.sleep(Long.MAX_VALUE);
    }
}
