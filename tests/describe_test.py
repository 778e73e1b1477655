import keras_hybrid
import tiny

# A stage's stride doubles, its channels are those of tiny.py, and a path counts one
# layer a student stage, two a teacher stage (its projection is on the longest way), one
# for the classifier.
EXPECTED = """\
teacher 'tiny_teacher':
  stride  channels  ends at
       2         6  out1
       4         8  out2
       8        10  out3

student 'tiny_student':
  stride  channels  ends at
       2         4  out1
       4         6  out2
       8         8  out3

student_first path, 5 weighted layers:
  owner     stride  channels  ends at
  student        2         4  out1 -> 1x1 adapter 4 to 6
  teacher        4         8  out2 -> 1x1 adapter 8 to 6
  student        8         8  out3
  student head

teacher_first path, 6 weighted layers:
  owner     stride  channels  ends at
  teacher        2         6  out1 -> 1x1 adapter 6 to 4
  student        4         6  out2 -> 1x1 adapter 6 to 8
  teacher        8        10  out3 -> 1x1 adapter 10 to 8
  student head

plain path, 4 weighted layers:
  owner     stride  channels  ends at
  student        2         4  out1
  student        4         6  out2
  student        8         8  out3
  student head"""


def test_shows_stages_paths_and_adapters():
    model = keras_hybrid.HybridTransfer(tiny.teacher(), tiny.student())
    assert keras_hybrid.describe(model) == EXPECTED
