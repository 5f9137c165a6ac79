package example;

import inference_service.v1.FinishReason;
import inference_service.v1.GenerateStreamResponse;
import java.util.ArrayList;
import java.util.List;

/** What has come of a stream: statuses while the model starts, chunks, one summary. */
final class Seen {
  final List<String> statuses = new ArrayList<>();
  final StringBuilder text = new StringBuilder();
  int chunks;
  double firstChunkSeconds;
  FinishReason finishReason;
  private final long began = System.nanoTime();

  void add(GenerateStreamResponse response) {
    switch (response.getEventCase()) {
      case STATUS -> add(response.getStatus().getModelState().name());
      case CHUNK -> {
        firstChunkSeconds = chunks++ == 0 ? Example.secondsSince(began) : firstChunkSeconds;
        text.append(response.getChunk().getText());
      }
      case SUMMARY -> finishReason = response.getSummary().getFinishReason();
      default -> {} // an event of a later version: EVENT_NOT_SET here, to be skipped
    }
  }

  private void add(String state) {
    if (statuses.isEmpty() || !statuses.get(statuses.size() - 1).equals(state)) {
      statuses.add(state);
    }
  }
}
