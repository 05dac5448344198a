import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.ServerVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.BsonTimestamp;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;
import java.util.concurrent.CountDownLatch;

/** mongo-java-server in this process, in memory, with the log that its change streams are read from. */
public final class MongoWitness extends MemoryBackend {
    /** What MongoDB 5.0 speaks; left alone it names an older protocol, which the driver refuses. */
    private static final MongoVersion SPOKEN = new MongoVersion() {
        @Override
        public List<Integer> getVersionArray() {
            return ServerVersion.MONGO_5_0.getVersionArray();
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    };

    /** Without a time in the answer the driver opens no change stream. */
    @Override
    public Document handleMessage(MongoMessage message) {
        Document answer = super.handleMessage(message);
        if (answer != null && answer.containsKey("cursor")) {
            answer.put("operationTime", new BsonTimestamp(getClock().instant(), 0));
        }
        return answer;
    }

    /** Arguments are the host and the port. Runs until it is told to stop. */
    public static void main(String[] arguments) throws Exception {
        MongoServer server = new MongoServer(new MongoWitness().version(SPOKEN));
        server.enableOplog();
        server.bind(arguments[0], Integer.parseInt(arguments[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        new CountDownLatch(1).await();
    }
}
