// Command client prints the models of a service as JSON. It knows no types but those of the contract.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	inferencev1 "client/inference_service/v1"
)

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	client := inferencev1.NewModelServiceClient(connection)
	models, err := client.ListModels(context.Background(), &inferencev1.ListModelsRequest{})
	if err != nil {
		log.Fatal(err)
	}
	printed, err := protojson.Marshal(models)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(printed))
}
