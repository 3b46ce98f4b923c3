import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Stands in for spark-sql, which the registry of Java packages does not have: takes the same arguments and prints the same, a line a row
 * with a tab between its columns. What --packages names must be among the jars already.
 *
 * <p>usage: SparkSql JARS [--packages GROUP:ARTIFACT:VERSION,...] [--conf NAME=VALUE]... -e STATEMENTS
 */
public final class SparkSql {
    public static void main(String[] arguments) throws Exception {
        Path jars = Path.of(arguments[0]);
        List<String> statements = new ArrayList<>();
        SparkSession.Builder session =
            SparkSession.builder().master("local[2]").config("spark.ui.enabled", false).config("spark.driver.bindAddress", "127.0.0.1")
                .config("spark.driver.host", "127.0.0.1").config("spark.sql.warehouse.dir", System.getProperty("java.io.tmpdir"));
        for (int at = 1; at + 1 < arguments.length; at += 2) {
            String value = arguments[at + 1];
            switch (arguments[at]) {
                case "--packages" -> List.of(value.split(",")).forEach(coordinates -> require(jars, coordinates));
                case "--conf" -> session.config(value.substring(0, value.indexOf('=')), value.substring(value.indexOf('=') + 1));
                case "-e" -> statements.addAll(List.of(value.split(";")));
                default -> throw new IllegalArgumentException("unknown argument \"" + arguments[at] + "\"");
            }
        }
        try (SparkSession spark = session.getOrCreate()) {
            statements.stream().map(String::strip).filter(statement -> !statement.isEmpty())
                .forEach(statement -> spark.sql(statement).collectAsList().forEach(SparkSql::print));
        }
    }

    private static void require(Path jars, String coordinates) {
        String[] parts = coordinates.split(":");
        Path jar = jars.resolve(parts[1] + "-" + parts[2] + ".jar");
        if (!Files.exists(jar)) {
            throw new IllegalArgumentException("\"" + coordinates + "\" is not among the jars; correct pom.xml, or the recipe");
        }
    }

    private static void print(Row row) {
        List<String> columns = new ArrayList<>();
        for (int at = 0; at < row.length(); at++) {
            columns.add(String.valueOf(row.get(at)));
        }
        System.out.println(String.join("\t", columns));
    }
}
