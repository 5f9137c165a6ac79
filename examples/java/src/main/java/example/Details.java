package example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.protobuf.StatusProto;
import java.util.ArrayList;
import java.util.List;

/** The reason of an error, "" for one of the library's own, and the fields that are wrong. */
record Details(String reason, List<String> fields) {
  static Details of(Throwable error) throws InvalidProtocolBufferException {
    String reason = "";
    List<String> fields = new ArrayList<>();
    var status = StatusProto.fromThrowable(error); // without details it is bare, and not null
    for (Any packed : status.getDetailsList()) {
      if (packed.is(ErrorInfo.class)) {
        reason = packed.unpack(ErrorInfo.class).getReason();
      } else if (packed.is(BadRequest.class)) {
        var violations = packed.unpack(BadRequest.class).getFieldViolationsList();
        violations.forEach(violation -> fields.add(violation.getField()));
      }
    }
    return new Details(reason, fields);
  }
}
