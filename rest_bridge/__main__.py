from rest_bridge.cli import main

main()
