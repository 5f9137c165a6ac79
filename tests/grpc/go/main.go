// Command client calls a service as a program in Go does. It knows no types but those of the contract.
//
//	client TARGET                   print the models as JSON
//	client TARGET attempts FILE ID  stream a text of a model, by the service config in a file; print
//	                                how many attempts the library made, and the status
//	client TARGET health ID         generate a text over a channel that checks the model's own health
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	inferencev1 "client/inference_service/v1"
)

const prompt = "Once upon a time"

func main() {
	target, command := os.Args[1], os.Args[2:]
	switch {
	case len(command) == 0:
		models(target)
	case command[0] == "attempts":
		attempts(target, command[1], command[2], command[3])
	case command[0] == "health":
		health(target, command[1])
	default:
		log.Fatalf("no command %s", command[0])
	}
}

func connect(target string, options ...grpc.DialOption) inferencev1.ModelServiceClient {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		log.Fatal(err)
	}
	return inferencev1.NewModelServiceClient(connection)
}

func soon() context.Context {
	limited, _ := context.WithTimeout(context.Background(), time.Minute)
	return limited
}

func models(target string) {
	models, err := connect(target).ListModels(soon(), &inferencev1.ListModelsRequest{})
	if err != nil {
		log.Fatal(err)
	}
	printed, err := protojson.Marshal(models)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(printed))
}

// counter counts the attempts of all calls of a channel.
type counter struct{ begun atomic.Int32 }

func (c *counter) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, ok := event.(*stats.Begin); ok {
		c.begun.Add(1)
	}
}
func (c *counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counter) HandleConn(context.Context, stats.ConnStats)                       {}

func attempts(target, file, method, id string) {
	config, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	count := &counter{}
	client := connect(target, grpc.WithStatsHandler(count), grpc.WithDefaultServiceConfig(string(config)))
	switch method {
	case "Generate":
		_, err = client.Generate(soon(), &inferencev1.GenerateRequest{ModelId: id, Prompt: prompt})
	case "GenerateStream":
		request := &inferencev1.GenerateStreamRequest{ModelId: id, Prompt: prompt}
		var stream grpc.ServerStreamingClient[inferencev1.GenerateStreamResponse]
		stream, err = client.GenerateStream(soon(), request)
		for err == nil {
			_, err = stream.Recv()
		}
	}
	fmt.Println(count.begun.Load(), status.Code(err))
}

func health(target, id string) {
	config := fmt.Sprintf(
		`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": %q}}`, id)
	client := connect(target, grpc.WithDefaultServiceConfig(config))
	request := &inferencev1.GenerateRequest{ModelId: id, Prompt: prompt}
	answer, err := client.Generate(soon(), request, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.GeneratedText)
}
